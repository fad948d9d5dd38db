"""JKQC databases: pickles that must be read and must not be trusted."""

from __future__ import annotations

import base64
import functools
import io
import operator
import os
import pickle
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.orca import ORCA
from ase.calculators.singlepoint import SinglePointCalculator
from ase.units import Hartree
from hypothesis import given, settings
from hypothesis import strategies as st

from ase_knncalc.data import KeyMap, iter_frames, read_dataset, read_jkqc, read_pair
from ase_knncalc.data.jkqc import standins, unpickle
from ase_knncalc.data.jkqc.arrow import decode_arrow
from ase_knncalc.data.jkqc.standins import NotRead
from ase_knncalc.data.jkqc.unpickle import as_array, read_table
from ase_knncalc.errors import DataError

# Tables of two rows (water with forces, HCl without) that these versions of pandas wrote, with the
# columns that JKQC has. zlib, base64.
WRITTEN_BY = {
    "pandas 1, protocol 5": """
        eNq9Vs1v3EQUX9vrzW4bSlOppT0Q9YSWQ1ddISQkKgVYPgpWjUgPXBqs8ex4x9Rrm/GYJKiocEg/pJFAYuCMhCpxQXDg
        ECQkKuDMgX8DwYlKvcF7Y2/iJBsKCDEHv7HnzZv3fr837/k99+NHey0z1FJO0jEpBjQTbBAJMmVa9Z4nkrxo5h/px9/X
        7+q+agfTidBquakep5KJlCTFYEpSMmGi0GrxuSSjVy9V77Bdnap3BEkcFrtbtHo4KNM8plcTFoS4B5VPpOU036ysw5SJ
        mGp1NIhENg3LKDIW+5+cbTXG2ct3jfzxWiVb96/XK89o5Rp7IMdyM8dolB09pW/fuqlXdd9zlHVB+77/yh8wzMNrSR16
        tmff0MoaaQlqqhuWcSLjFFx2iySmaAZUup6DVjwbn/woP7bPr8aw9knNTyg7bvjBTx3mBT+DPvBlz/Fcz2oeqE42sJqW
        4CERgkCsi4FgNEsLKUoqwVd+XC0AA2YRPG9t6ZEV6upky2ubU8CfV/fgcm0fLivg0e01zIPh+rnzWnWGnCbnhoDncF3D
        R3iDvCEFGxCZTRGqZ43cyZ9uQFmSZOGbACiq4RtsHKGolZRbOYlQXmz9t0PzkwChMwO0CCGh85Cas5ymGiARDhvMXJjD
        jLNVm1Ed43FhIlwAPkK8A2jzdG2we2gKPNYw08uzIpYxkPa3gt9e3vrlte3fVuZ//+m7H+71r3zw/a8rhwRfqp4hYxwX
        +R5n/xo8a7YfMqzKLwK3udBrQGOcRplhMKAkodovQ/5CRTy/yD0z4/7/wiu/fIDS13eR5lfQpTdQ5fg+RpYazNg7+hRV
        z/9Dp1YNEb+voHN2A3fO/wXafLqmeQb4vQWowg083MSHNeGfmoN3Yz6w4fNa8atafv2gDdu14re1vLt3A3vp+v1qgcH1
        mFcJZyB3arnQALs9M1NVtpsay8zpvX1mzDZYMQihcGh1JEjZevAyfsOCfmaepqmHoHoJ5UwVL2knYW+zBJO2z+/wz5Tb
        XGyPoe9pPuRPYJXkT+7USHh52lQ/l21A2gMfykmyiVbOxuY7GoNW7RTbpV/eQADv8C8wz748aKq7Y6pDORETiGeRJmUB
        XTEwLUotsYRRKbI0pgFLmZhASX8oirFLQvjmFNWJMkEZdlsTaA5dKZag16uKfilApy1jUDWEfFO5xZRLszGrgj/WH3Ut
        y4bh1P3oQVWv28iPUdex7Ja70Glr/vPuCgMPMiEzMYZO7UP3BW/Ncb7PamTm8yVIilAcWUXZoARch6YriZDQuFS7kFkO
        aYITBhOrCgsfUM4BPkAAKZz9xgRTJonhdA2bi5QCK7XqBFFCJmb6CIGetF4E4xIxJJIFCQkxP24VZTj4EwKyvFk=
    """,
    "pandas 2, protocol 4": """
        eNq9VkFv3EQUXq/tzW5bKBESBFFVEadwyKp7Q6JSgIVSsGpEELdGZuyd3XHrta2ZMZuFotJD2kYaiUqd3jly5MAhB6S2
        wAUhceNXIJCQQOqNvjd2Widx06pCzMFvxn7z5r33vTefv3RukV7LDLWYk3RERD/KOO2POZlSrXpvE0nOmPlN/eoV/YVe
        UU4wnXCtTtbV41RSnpJE9KckJRPKhVbH3kqy6OK5cg3b1QvVjiCJQ/Fwi1bHgyLN4+hiQoMQ9xjltJjm835gzE+LRMaE
        czIHswGnUZYKyYtIoqZrNLVaAONG5ab2Wlt6aIX6ml7XK57ltb32Vc2OK3ck5zmGotrj1/T29fK7razT2vf99/+FYR5e
        S+pwe7hsErP80R0jf7pUyta9y6VsvaFBTXXDIgb3UgjEFUkcoX04sevZaN5r45MdZc+yRXSLPb/XqSXVjmuusBOPdqQ2
        rH0SHWGveLbnetbhpzq7p36wJwGX9iVgDc/dQLQHs9VTWnUGLEpWB5C4wUzDS1hBdRBB+0RmUwz9TSMfVEk3iGiSZOEF
        rbqohivYOERRKSm3xOugk7Zng5Mvbw/Ptv6jgQkSIdRuHkZNB26ZnISDGhKnm5CwK1uqY3wXJtYFqMAQa77Z8Or2cKl7
        CHCql2ciljEU9VPlYufk1u8f7vy51vz+19s//rNy/qsf/lir56JQPQPQKBZ546FWeejSYQmFXiw7kUAzC70B+MbpODPQ
        BhFJIu0XIXunrAh2lnlmxvz/D3D2cTMk5x8iyT5B58KG/iyhe24XqsV6r8VN/VzFcOpJfVw3CP29ZgBh+dPCwGYbms0h
        sZ9DuqFnm0M+aOVGVRFfGwcet+ubSvvbSn73RLt2Ku3vK3nH7KLvXr5XrmmjDadM/fL+665TyYVa9OVVd03jZbW0l5NG
        dJOKfgjXj1ZHgpTOgvfwHd7/LzVpGpoB1XMod1WxwTsJ/ZQmWOEr7C67rdz6R2cEHKmbg3jd3KEu3YQeAYyUnWQTrezN
        +WcaI1dOitTqF1fxtr7LfsZS/OWgqe4DU52IET6BeI5FSSGAQQPDaGqRJjSSPEvjKKAp5RMgxGfGMTIqhG9OUZ1xxiOK
        zGwCzYGrYgl6vZJLCw46joxB1aDyW+kWVW6UjWgZfKNnSGGPvTi7ltWGYbeaqwbt/AVattVuuQsdx1QJeJZxmfER/D/4
        wPMQhXHD92mVsWYcOUkxRUfWUdaggpCAoiXhEv4QlCNklgNT4oTCxCrDxQfwBKQVMoPQ7v4KBVMqicF6A6lLSo63v+oE
        44RMzPRFAow3E8GowNwSSYOEhFg310UR9u8DgpHz4Q==
    """,
    "pandas 2, protocol 5": """
        eNq9Vs1v3EQUX9u7m902lAZEaC+hJ7QcuuoKISFRKcDyUbBqRHrg0mCNZ8c7pv5iPCYJKioc0g9pJJAYOCOhSlwQHDgE
        CYkKOHPg30BwAqk3eG/sTZxkQwEh5uA39rx5897v9+Y9v9v56JF+ywy1lJN0QoohzQQbhoIkTKv+c0SSF8z8Q/3Ye/od
        PVBtP5kKrVaa6lEqmUhJXAwTkpIpE4VWi8/GGb1ysXqH7Wq53uHHUVDsbdHqfr9M84heiZkf4B5UfjAtk3xr6BvzMGci
        olod90ORJUEZhsbk4OMzrcY4c+mOkT9crWTr7rV65WmtOsYgyIncyjEcZYdP6ls3b+g1PXAdZZ3Xnue9/AcM83BbUgeu
        7drXtbLGWoKa6gVlFMsoBZ87RRxRNAMqPddBK66NT36cnzjgV2NYB6TmDyg7avjBl4/ygp9GH/iK67gd12oeqJabYCUl
        uEiEIBDsoi8YzdJCipJKcJafVAvAgVkE11vbemwFujractvmGHDolX3AXD0AzCq4dGsdM2G0cfacVt0Rp/HZEQA62tDw
        Ed4gc0jBhkRmCWL1jJG7GdTzKYvjLHgDEEU1fIONYxS1kupUTiKWF1r/7dD8IcDQmSFaBJDSeUDNWU5TDZAIRg1qzs+h
        xtmuzaiu8bgwES4AIQHeArR5qjbYOzIHHm2Y6edZEckISPtbwe+sbP/86s6vq/O///jt978PLr//3S+rRwRfqr4hYxIV
        +T5n/xo8a7YfMqzKLwL3udDrQGOUhplh0KckptorA/58RTy/wF0z497/wiu/dIjS1/aQ5pfRpddR5eQBRpYazNi7+hRV
        z/1Dp9YMEb+tonN2A3fO/wXaPFnXPAP83gRU4QYebeKDmvBPzMF7MR/a8Fmt+GUtv7rXhp1a8Zta3tm/gb147W61wOB6
        zCuFM5C7tVxogN2emalK2w2NZebU/k4zYZusGAZQOLQ65qdsw38Jv2FFPz1P09RDUL2IcqaKl7Qbs7dYjEk74Lf5p6rT
        XGxPoPNpPuKPY5XkT+zWSHh5ylS/DtuEtAc+lBNnU62cza23NQat2ik2TK+8jgDe5p9jnn1x2FRv11SXciKmEM8ijcsC
        +qJvepRaYjGjUmRpRH2WMjGFkn5fGGGfhPDNKaobZoIy7Lcm0BzaUiRBr18V/VKATltGoGoI+bpyi6kOzSasCv7EYNyz
        LBuGUzeke1W9XiM/xj3HsludhW5b85/2Vhh4kAmZiQm0ag/aL3hrjvM8ViMzny9BUoTi2BrKBiXgOnRdSYSExqXahcxy
        SBOcMJhYVVj4gHIO8AECSOHsR8ZPmCSG03VsLlIKrNSq64cxmZrpwwR60kbhT0rEkEjmxyTA/LhZlMHwT+Z2vRs=
    """,
    "pandas 3, protocol 5": """
        eNq9Vs9vG0UU9q69jp22lKgiVKIKuSC5h1p1TxyQQuuIH7G6Fem10Wp2PfZss95dzc6SuCoUhBxaNFKRGCqOHDly4JAD
        EhVw6gEJ8R9wRSAhgdRbeW92ba+dhpKqYg6e8c735r33vTfvzQfW5ycXS3rIakzCLkmUrK8TQd7gZEDVZ+rsh+o91ZAV
        Z9DnSq5kmKYXcdr0Q0F5SIKkOSAh6VMOsscvBZG3fTn7D+INuZyLOIHvJlMZJU86aRj73nZAHReFAC1PzYAJ52QIyDOO
        Ew93p3B7/SLuXCLeNu2i2IlcbCxw7KrgftjXKNjfeLn6Z8X+WG0qVhrvrYthjP6B20PBolC9eethRsQe4ORymA7iYdPR
        jg7SQPj6bHDQ4dSLwkTw1BMob2mkkgtgQa6vUxqptuEq1NjoGB1zpNgZaXXHKs0rr6o7t7PdsjRuKtu2Nx7B0D+dNaHc
        O1tIemvn3HmwsMW84FxLUfi+p1xZc1MfDArBUSsJfI9qlaDHwCM7pnb0GHuOLRUcf4Etz3jIXmIraCdbLVrZ0HrN1o4C
        5aB1rJNdQMCsAnmqyBGsKfc94N7p8Wjgpr1elgD3VkuFsXr1vp5/vJnNpYe38p3XFXtFmr0ZZl6bY6YE1oAZ5p6SRlsJ
        NOMC/K91yjOeb8wpLQxjbtZK/YJSduUwlWwzV1juWHNUH+RSC2Rs1klCm0REA4zXRT1PrlXN8WgQRO51JWsIw39AfRun
        HCStLK3Qq7dKz3YoZoM35bFviQv3PHY9ratchAFJbqtA0tnHkFQe5cfIan4P0cMFSAwXSwOeeTo/sHZoNK4VjqnHUeIL
        Hy7bf3J+f2X02zv7f6w9/vtP3/3wd+Pa3e9/XzvE+VTWdTC6fhLPGPvv5BljeagMWV0gUOMStQVh9MNepCPoeCTwlJ26
        LMgCzyLG9Yql/0tc2Y0DIX1/yjT7CE0aIeT5uYgsFSJjTvCfIPT8EY3a1IH4aw2NMwu8s7tPwTYDgtk94O8LYBVu2eFH
        fJoH/EuteOrzAYGvcuDX+fzNkwT2c+C3+Xx/VoBO6i0WUagbVShUhbohFFaH07MdtUt3adJ0oRYoueiEdMd5G79BMYDW
        tXgZG9H4A96uakDfpQFmW4M9AIRV3Kx0oY+rI/eByqQPWHQX0hl4luUg6itZ3h3emHShSogPBDvVhzxgP2MK/XJkZbWJ
        sqrHCO+D28e9IE3gleDodimXaEA9waPQ9xwaUt6HXnui5+OrAVjSRshqL+IexeeHbtUxNEVfAK6etemUA6YifICO+9mv
        meFUWl7UpRmBG412zTBMGOW8Lzyp5NUKydGulQ2zZC1UK+o6Xp/pJgU7Ii4i3oWOaMODAWzWGm2bjumD4G6SsE8L8QMb
        ob8LwgV0d1lJRBRD5uCCwsLI7NePlQpSBd5ivHv63Qa1bEAF0QmwhS1ECI71WFadXkD6evkigc6zkzjdFPkigjoBcTGZ
        biep2/wHdzMmSg==
    """,
    "pandas 1.2, protocol 4": """
        eNq9Vs2LHEUU757pnpldE8iKwVUxRhAcwQw7oEFBGHWCo7YZMYJeXJrqnpqp3vR0D9Xd+xFX1MPGLBYqpHLzEDzpRQIK
        LiIo0bP/g2dRPCh40/eqund7Ym+EoKlDV3XVq3q/9/3esa58sWioIZZmJBqRpOPHnHbGnEypFAtnSEqeU+vL8pF35Vuy
        LWx3BJtSnCjTB1FKeUTCpDMlEZlQnkhx5Nkw9s+f1f/6fnsVHlievziimzTpeCQBfotuRDfcF3APLoh7qiinWZgGQHoW
        54IUgTVCuk7DRAIPdpTdIezyoaVBH4+y6WxLP6geIpyTLcDqcurHUZLyzE+Rta0IpWgCAEVyWTrGjuybnnxPnpNtx3Ss
        HcnuE/Yo3ZqhekTt5Sfk7iV9WhfmthwOhy/+BUN9nF4qvV2U36abKQcsVhCNYynqYTyB7+bWBUmBRFgRqnuYXYSHQI7j
        gJ7dze5l9yN/9kDBvQU/D6v3Gj4jfALaO+KHWQJ2cBUisURD6qc8jgLfpRHlExDn6DgIqYvKVlxEYxxzn6KxlDZmYeAH
        KdAtaE1kHGisNABSxMZWNCwqbD8eUa3qSmQPiVrQPdAGa8/rwkBd9FumWYNRNyS+XfnOS0BVN2uG3WxYSEUBWczTmI/A
        pYZgJZBCwRgOaa6xaq/hJEIVLZ7DueQYIJKwk5TwFOwrrCSNZ9Kp4YLCwtTiVopZc2oXlaDjObM/JatEPali7OSr36n5
        h209G7/19Gw8Xa2CfR5BiQcLD+dQGuYNczUHS3HQjmR1N06tgE90mR+e6oJDdzfA+vgHDgEu0yFpPAVfsZ9R835GaLk+
        DcPYW5OihWT4Bxf7OOVEwtZR9E8AdacOAM7v9p83/qOBgiYQR+7M86sYavf0/tU96/lboqGwJ0rWJuQFD9Nb9cPru/3l
        1k0MIBZmcRKkAaSaW9LF3omdn1/Z+7VXvf/jt9//0X7jw+u/9Mq6yMSCMtAoSGaVTE3NdPlmCoUMqfMjgVSPEcceRau6
        Pgl9SFYe29HOwC6x99WKfXD7bM2uVFvj4wMjsqsI7pOKENNWO1ZYaakcLp9VhWQuw8phmN686/PBTxd+71Vhzdi1W7UA
        +0ornX0N6l5VpXRQnA96HxWLq3qBOWvQ+7TYvVYsviwf7xW73xSLPC9ROnj7z3yJWVeX1GOowjv1Oi9LDxYl4WDr9H6V
        YGeqE6fO65D5D0l6xXlTZXz22pC9PpfhbzcQw/6fgViakWWah9XCgqJu5nXwRjAUorGx0uk+1unqfodA1ZNsUTQ87MJU
        jVRN0joJMzyZiNZ0wl04hIze8rIAyn+EyT2BHgD7GfD0llNHABlcXHscAoTxtdMwrT0JH/Ba2zHnj7fVcTX69VKJKmKt
        kc/NcoRQ6GGwDcIuBuoO9m1FN+pOaUpUI7cqM6/zN7J6Xds=
    """,
    "pandas 2, own types, calculators": """
        eNrtWEtvHEUQ9uzbjgN5kBAn4HCKzCGrWDwEImJJNoqTjLKEROIC1qhntnd71rMzo3lgO8SCHBxi0VIiueHMDcgBEApg
        iUgxjzP/gANnBAoSSHCCqp6Z3Zn1mjwURRwYWds904/6quqr6mq/XXzvr20j8uHbXWI3iV81HI9WWx7pUsFHj5GAHJf9
        VfHkRbEkpnhB67Y9wSfT0007oJ5NLL/aJTZpU88XfPyo5Rhzp6N3WD7Fd8dLNMvU/f4awR/WQts1jTmLajougtl8px12
        3cWqJveHPvVMQ/AtWstzunrYakV7vh+jj59btbjzkuBFuQG0zWDRRfw813pOrFx+R5wVU2qeK4dFo9E49Tc88kcdCYSu
        KmrukuBKXQQwjVf00LQC0waMRd8yDdxGLaolVcFd1Bz+si3soT4OZaAVbAfPmSm5bPdmUtkEymSTagFEZATw3WljdEOA
        RDyPgHLjmkcNx/YDLzQCAMe28TLYWA4C1JFlUVd0EYlWYjEA6OWMIS4MGKIGkFZm0dXT8wcPCV6aZoZ1cFpQ+A7wRnCn
        jP7T7CkUxZ5JBOWkoBfkJqPEp1USOF004hHZ9rhU0QxqWY7eAVPjNHwTvFDHJp7Ei5E2aOQTI/f3EWyXmlfziel9Hcjt
        6oaUlU9PA5Pp0ykfHh7iw/xyvA0vScS+1LAMntMxHnDPPfGGlU3JciC1zajr+GZggnfvSPm1yeWfX1n7tTb8+w83v/tj
        6vUr3/5S20T5kI9KZzRN382A/XfjKcl6oGJERAKB7YtZwSekR/vfqi1zQYuJUDluLmS4wIum3aQLUnJlg6QDqrLccxLh
        BdNuObioMEfdQFyJOHfV50XNIBakiX1SNHRDCwR6ftU37bZFXQdwCL7rnHw7g2/13qQ+K4sRSHY6emdn2DnZY68+EBKy
        1zbwT+vTgjURUuuu6cTmHgSJmHsP1GHhrGAXwb7LjVDnZY/6kOGi8ClRm3rtRTFz81Z8TJVajmfQYSGRJP97bzeExJhL
        8PAL5IG2d5BU/b7gY2f6MyWReMlgxGtToZZ9PqY1TUjUMBNytlKFQdejEA6iwXe0aaD5rmlrrmMRzzxPm5lzpwzjJAiQ
        nmyFT2pNCksNEtCmNmTlJZk4Qp9CIBiMihVesOVJXgCrERHqof6fp/XgUbo9Redcls6HbgPizUc+mfnp/O+1YeBy94+2
        7HJs0nf/N+59Ny7kBPYh4v+4lwTYtY347i7KM/g+ZZ+Dr9h1iFT2BfuSfdVga+xr9iO7geHEbq6wdfYNhg6UM/A3k4ic
        qV1NOh9EHYrDtY+Sr58lnevp4bXk642ksx4P05m3/oy7UalVUisDleDOTA0dFxr8MU1zFxf6VXTj2BEcOUqMOUgKqwPV
        erSqikmk7UBZTaDm2lJPva2KU/tLvxUaKJNPpJfKWtqPG8G3pVYdi8vs+BAdS7bHeXuylwU46GETHfIpJE7NpvPaSXn4
        r4rOBBCTF5NXed9owh1EDKkxl5MKs4D1KZT30/NRibreCGUeLDtek3pggBWgEBAm1+N+VJXfrqLrxcMSVNDoDixss+7Y
        O8SueLHBKw8fPxn1jsTleFJeaJFGDw3eXrIVT086LOgSf06kVYgCvD+lFOf7pd59p/M8WnIMIDz7dMo1foiK5OGOkVVk
        3xBFWpZD4BBqC771eNzNqtJ5EWRs0OOJcxGfv7+wLkMtAdmpx7M3UaJzAsaXROcUNJ2ziH5cih2CP4epoo8/gHJzqrMP
        l0wMY5q8MQHVTmOb5lbJom9Qy+8t7zwuIUx19iPUDZQr9ChXpAtQ1UKG4nnLAQPlFxbPZ8h3J9tVku3YdT5uWKEP1YMm
        VeXbqQXlgufYpqHFJRDf2jLxggxRI490do2PS8VcuJiaAUwYja6BoYfnfWDCnDQiyouG06RSWfBCvaIoOXjyI6JTBXgS
        TZR6cTCv5EaK5VJhcJCCFMcLZGRB9VJEKHLLRoP2FR/uBo/YbYz4s9im3AAI4XodEC+AGysv+IHjgmOxQ6GjROhlRBfQ
        PKAoBlDyLwoNqi4iI2oWL4tQKmHpCBHRskhbdh8lcMec97VmiKaCtKRZREe3XwY2Vf8B4+T6wQ==
    """,
    "pandas 3, pyarrow, calculators": """
        eNrtWE2IHEUUnv+dnWz+Nv8/rGIEJ4EMuyDBg7BJNmbVIZOYXLO0/VMz1ZOe7qZ/3J0kYhQ3yWJBAqnk7FEUJKBIBDEh
        CuIlFy9eBQ9CNOSg4E3fq66e6enZZJMQggeboV9V19/3Xn2v3qs5V7w6Pp4RDyu5qm2oPmejh9RAPeypHcKv8N3v83d5
        lRWUTsvjbCLqU9Mdj9RMOyCerVp+raPaaot4MHbsoOXop45EdRheZZvlEMUyNb8/hrO1Smi7pn7KIoqGg6A3Wy07q56n
        dqHPugOe58yfCDzTbh3Ab31Eo4qrKqIfZ6vcrooda7AGZ2sUj/gBIJTNgIKOszVB1yVK0/EU1TJBTVhtzFK9FlF8MT1f
        5Md5PVfP1DNzvNqAEaNuV9HCZlMocm1rZvApSFmRUoynO6/F9an5vZNTVLf2TokWMscbgSixkmIgFk4zbFWk2iFRB0Qj
        UhE++97f0TTnccQoaKQajm11+VKosbIWmlZg2mCgom+ZOg4F3Nl69oLQAd90FV0TWYqupxurdPPDtd05pF9OylJKv1JP
        P9QupRt9ie6mewbA070AmU4CutwgvqHN3iA2+7WFgNi+6diD+x1rUTKcULPIMP51SfDPn7gl5Pdnbw0jzLCKWCm2uiRU
        WUHSAG853QPYoo2It2pwYVBIapWr51NWPzKItwiM3/fyCnATzzDck3JChe6hbw/O2MeRrxdS1t1ghx23W1OEq0KZeKYO
        nqI0PafTY3W1hyObkkAtMQFII2ZnznyFL13E+av1PMu+yhuNxpv/wCNe9UzANdzm85xlZ3iAMCYBVjFloHPVlPL3p2Vh
        P6cfslwzsQi9+KAl6EdygWK9lNJ8c1LzTgieIo+JMXAj3bHBA0I9AIXoB2wEGCh5Vs8s8pmsxqOlka64DAA6OqD12ZTW
        0wBpaQ4PJNUnNTVwOuiWB4RMcEsnluVobc7K2A1rnBVmUMhOrBgBQfu8nnm6D6dXgSH52Gq+Bue5q+lirXyyG2irTSXM
        /9ky5s8vymlYSXouajgCRtcwBOCc8VlSfhC56IXENKOu45sBeLz/SMrfmFi8+9aNe9PLf79z87u/qicv3f5j+gHKh3Ca
        ovkN03cHwD7ceNl4PLAo4pAKfujzOc62iR3tf6s1zQVFEqF82FwY4AK6r0EWxMrloZUu1LOLvU1SWcG0mw4OKpwibsAv
        Rby87LOioqsWuPMOsTQUQwsW9PyaD2e7RVwHcHC26YSoHcPaTK9Tn5XFCCS9Lk+YL+hXokS/fiYkpN8O8e92nxb0B4T0
        42PTid55FiSiPz0BdejPc5z+Cvb9rQFRfASyFDicIvcpEZt4rS6fvXk/TscgVdHJci4Rn5dPLodcouKqmO8FIofbniZV
        v8xZ5Vi/pyASK+kUEwteH/FZRTFMOGOhJxy32Ro0uh4Bd+ANNt4igeK7pq24DmQi5mli8GQmMwLtahAgPenvbEIxCAzV
        1YAYyjIjo7Qo9Ak4gk4JX2IFGxNWVgCrqRAYISr+12mdDr3rE3TODdJ5cgUQZzZ+PvvL6T+nlwOXe3q0pXelSe/9b9yn
        blw4E9oVgAsqtMdA9o6C9mqoDQN9PHdPAm2Pw4TtTfCCrWtvAQm+296KH7fhazu8Gu0dWJzA1358PZeN8vn2C1BYau/C
        by/CC10N0h/4zcbIZqcvx4WPowLB5ulP4q/X48KXyeYb8ddv4sIt2Ux6NwoCGQgkfaV6OZn0BRwTsK2Dl1OIssSvaXCY
        waml2GReeUNE3it48aocwbww/iBOYIu8QywM6NW2hwbPsGKyvWDArZg/wqWqkMjyq6nNL0o5KuWYlGtTl6y4ThZETtF0
        LKe10D298m0LOIQ70wjFVqEe7a7k1BlUamX45QT8tDvHdz/5l0Fml5QxMfdJeVDKupRHU+rF9Shy6FboQzxR8JpBLIge
        nmObuhJFxKaJ/w/AJuLxHoVEkdK7cO81g26Uy4ceCcwOeUzzEFbUHYOILQf3milnszl48lEebK6UB5d7pwiOzWdzmeJI
        qcDbn6I/9RoJG/UdDwKiAReuBlyqQA2xYqNB+puEjDyu2i2SYFyEFG74geoFQHRWgPupC/zCAoFCNtJChMICWg8iIpK0
        Kf66gTQXwrQqWDuHtwuIrZhrsJLStNSWKG5R4VIy7ytGiOaEWKtYqoZOcNEPtdq/Vs884w==
    """,
}
PICKLES = {k: zlib.decompress(base64.b64decode("".join(v.split()))) for k, v in WRITTEN_BY.items()}


@pytest.fixture(params=PICKLES)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "two.pkl"
    path.write_bytes(PICKLES[request.param])
    return path


def test_all_versions_of_pandas(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pandas", "pyarrow"):
        monkeypatch.setitem(sys.modules, name, None)  # importing it is an error
    water, acid = read_jkqc(database)
    assert water.get_chemical_formula() == "H2O"
    np.testing.assert_array_equal(water.positions, [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    np.testing.assert_allclose(
        water.arrays["reference_forces"], np.arange(9.0).reshape(3, 3) / 64 * Hartree, rtol=1e-14
    )
    assert water.info == {
        "name": "1w-0",
        "source": "two.pkl#0",
        "composition": "1w",
        "charge": 0,
        "multiplicity": 1,
        "reference_energy": pytest.approx(-76.5 * Hartree, rel=1e-14),
    }
    assert str(acid.symbols) == "HCl"
    assert acid.info["reference_energy"] == pytest.approx(-460.25 * Hartree, rel=1e-14)
    assert "reference_forces" not in acid.arrays
    assert water.calc is None  # what some of the tables have there is no label of the table
    assert not water.constraints


def test_table_has_all_columns(database: Path) -> None:
    table = read_table(database)
    assert table.n_rows == 2
    assert table.column("log", "electronic_energy") == [-76.5, -460.25]
    assert table.column("log", "time")[1] == 2.0
    assert table.column("log", "no such") == [None, None]
    assert len(table.columns) == 8


def test_read_as_any_other_file(database: Path) -> None:
    assert [a.info["name"] for a in iter_frames(database)] == ["1w-0", "1hcl-1"]
    assert [a.info["name"] for a in iter_frames(database, "::-1")] == ["1hcl-1", "1w-0"]
    # The reader has made eV of it, whatever the unit of other files.
    dataset = read_dataset(database, keys=KeyMap(energy_unit="Hartree", force_unit="Hartree/Bohr"))
    assert dataset.energies()[0] == pytest.approx(-76.5 * Hartree, rel=1e-12)
    assert dataset.has_forces.tolist() == [True, False]


# -------------------------------------------------------------------------------- real files


@pytest.mark.parametrize(
    ("name", "rows", "first", "hartree"),
    [
        ("monsDFT", 2, "1w", -76.4096259952),
        ("monsXTB", 2, "1sa", -23.45522190195),
        ("sa-w_DFT", 42, "10w-25", -764.270885),
        ("sa-w_XTB", 42, "10w-25", -57.81789130103),
    ],
)
def test_real_databases(
    shared_data: Path, name: str, rows: int, first: str, hartree: float
) -> None:
    frames = read_jkqc(shared_data / "jkqc" / f"{name}.pkl")
    assert len(frames) == rows
    assert frames[0].info["name"] == first
    assert frames[0].info["reference_energy"] / Hartree == pytest.approx(hartree, abs=1e-6)


def test_real_pair_agrees_with_the_other_file_of_the_same_clusters(shared_data: Path) -> None:
    folder = shared_data / "jkqc"
    found = read_pair(folder / "sa-w_DFT.pkl", folder / "sa-w_XTB.pkl")
    pairs = found.frames
    assert len(pairs) == found.matched == 42
    assert not found.renamed
    known = {
        a.info["name"]: a.info
        for file in ("saw_equilibrium", "saw_4sa5w_equilibrium")
        for a in iter_frames(shared_data / f"{file}.extxyz.gz")
    }
    compared = 0
    for atoms in pairs:
        other = known.get(atoms.info["name"])
        if other is not None:
            compared += 1
            assert atoms.info["reference_energy"] == pytest.approx(other["wb97xd_energy"], abs=1e-6)
            assert atoms.info["baseline_energy"] == pytest.approx(other["gfn1_energy"], abs=1e-6)
            assert atoms.info["composition"] == other["composition"]
    assert compared >= 40
    dataset = read_dataset(pairs, require_baseline=True)
    assert len(dataset) == 42


def test_dlpno_energies_of_the_second_program(shared_data: Path) -> None:
    water = read_jkqc(shared_data / "jkqc" / "monsDFT.pkl")[0]
    assert water.info["out_electronic_energy"] / Hartree == pytest.approx(-76.342127686, abs=1e-8)


# -------------------------------------------------------------------------------------- pairs


class _Writer:
    """Writes small databases by editing one of the tables above."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, name: str, *edits: tuple[bytes, bytes]) -> Path:
        data = PICKLES["pandas 2, protocol 4"]
        for old, new in edits:
            assert data.count(old) == 1
            assert len(old) == len(new)
            data = data.replace(old, new)
        path = self.folder / f"{name}.pkl"
        path.write_bytes(data)
        return path


@pytest.fixture
def write(tmp_path: Path) -> _Writer:
    return _Writer(tmp_path)


def test_pair_joined_by_name(write: _Writer) -> None:
    low = write("low", (struct.pack("<d", -76.5), struct.pack("<d", -5.75)))
    water, acid = read_pair(write("high"), low).frames
    assert water.info["reference_energy"] == pytest.approx(-76.5 * Hartree)
    assert water.info["baseline_energy"] == pytest.approx(-5.75 * Hartree)
    assert acid.info["baseline_energy"] == pytest.approx(-460.25 * Hartree)
    np.testing.assert_array_equal(water.arrays["baseline_forces"], water.arrays["reference_forces"])


def test_names_do_not_matter_where_geometries_agree(write: _Writer) -> None:
    found = read_pair(write("high"), write("low", (b"1hcl-1", b"1hcl-7")))
    assert [a.info["name"] for a in found.frames] == ["1w-0", "1hcl-1"]
    assert found.renamed == [("1hcl-1", "1hcl-7")]
    assert found.frames[1].info["baseline_energy"] == pytest.approx(-460.25 * Hartree)


def test_other_geometry_is_listed(write: _Writer) -> None:
    moved = (struct.pack("<d", 0.96), struct.pack("<d", 0.97))
    found = read_pair(write("high"), write("low", moved))
    dataset = read_dataset(found.frames)
    assert [a.info["name"] for a in dataset.frames] == ["1hcl-1"]
    (omission,) = dataset.omitted
    assert omission.category == "geometry-mismatch"
    assert "differ by 0.01" in omission.reason
    assert "low.pkl" in omission.reason
    assert found.conflicts == [("1w-0", omission.reason)]


def test_unpaired_clusters_are_listed(write: _Writer) -> None:
    edits = (b"1w-0", b"1w-7"), (struct.pack("<d", 0.96), struct.pack("<d", 0.97))
    found = read_pair(write("high"), write("low", *edits))
    assert (found.high_only, found.low_only, found.matched) == (["1w-0"], ["1w-7"], 1)
    dataset = read_dataset(found.frames, require_baseline=True)
    assert [a.info["name"] for a in dataset.frames] == ["1hcl-1"]
    assert [(o.name, o.category) for o in dataset.omitted] == [
        ("1w-0", "missing-baseline"),
        ("1w-7", "missing-reference"),
    ]


# ------------------------------------------------------------------------------- hostile files


class _Call:
    """Pickles as a call."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.function = function
        self.args = args

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.args


def _mark(marker: str) -> str:
    return f"open({marker!r}, 'w').close()"


HOSTILE: dict[str, Any] = {
    "posix.system": lambda m: _Call(os.system, f"touch {m}"),
    "builtins.eval": lambda m: _Call(eval, _mark(m)),
    "builtins.exec": lambda m: _Call(exec, _mark(m)),
    "builtins.getattr": lambda m: _Call(getattr, Atoms, "write"),
    "builtins.__import__": lambda m: _Call(__import__, "this"),
    "functools.partial": lambda m: functools.partial(slice, 1),
    "operator.attrgetter": lambda m: operator.attrgetter("__class__.__base__"),
    "operator.methodcaller": lambda m: operator.methodcaller("touch"),
    "pathlib.": lambda m: _Call(Path.touch, Path(m)),
    "numpy.savetxt": lambda m: _Call(np.savetxt, m, [1.0]),
    "numpy.load": lambda m: _Call(np.load, m, None, True),
    "_io.open": lambda m: _Call(io.open, m, "w"),
    "ctypes": lambda m: _Call(__import__("ctypes").CDLL, m),
    "ase.": lambda m: _Call(__import__("ase.io", fromlist=["write"]).write, m, Atoms("H")),
    "pickle.loads": lambda m: _Call(pickle.loads, pickle.dumps(1)),
}


def _nested(payload: Any) -> list[Any]:
    """The payload alone, and where unpicklers have been fooled before."""
    hidden = np.empty(1, dtype=object)
    hidden[0] = payload
    deeper = np.empty((1, 1), dtype=object)
    deeper[0, 0] = hidden
    atoms = Atoms("H", info={"x": payload})
    return [payload, [payload], {"_mgr": payload}, hidden, deeper, atoms]


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_hostile_pickles_are_refused_and_do_nothing(
    tmp_path: Path, name: str, protocol: int
) -> None:
    marker = tmp_path / "marker"
    path = tmp_path / "hostile.pkl"
    for payload in _nested(HOSTILE[name](str(marker))):
        path.write_bytes(pickle.dumps(payload, protocol=protocol))
        with pytest.raises(DataError, match=r"hostile\.pkl: refused"):
            read_jkqc(path)
        assert not marker.exists()


def test_calculators_are_not_made(tmp_path: Path) -> None:
    """Their classes may stand in a structure; whatever is done with them there, nothing happens."""
    marker = tmp_path / "marker"
    calculator = _Call(ORCA, None, None, None, None, str(marker))
    structure = Atoms("H", info={"x": calculator, "y": SinglePointCalculator(Atoms("H"), energy=1)})
    path = tmp_path / "calculators.pkl"
    for protocol in (2, 4, 5):
        path.write_bytes(pickle.dumps({"a": structure}, protocol=protocol))
        with pytest.raises(DataError, match="no table"):
            read_jkqc(path)
        assert standins.load(path.read_bytes())["a"].item("info").keys() == {"x", "y"}
        assert type(standins.load(path.read_bytes())["a"].item("info")["x"]) is standins.Opaque
        assert not marker.exists()


def _arrow(kind: str, length: int, offset: int, *buffers: bytes | None) -> Any:
    alias = standins.Applied("arrow type", (kind,))
    return standins.Applied("arrow array", ((alias, length, 0, offset, list(buffers), [], None),))


def test_arrow_columns() -> None:
    """Offsets into the buffers, missing values, chunks: as the Arrow columnar format has them."""
    starts = struct.pack("<5i", 0, 1, 1, 4, 6)
    texts = _arrow("string", 3, 1, b"\x0b", starts, "aβcde".encode())
    assert decode_arrow(texts) == ["", None, "de"]
    numbers = _arrow("double", 2, 0, None, struct.pack("<2d", 0.5, -76.5))
    flags = _arrow("bool", 3, 7, None, b"\x80\x02")
    assert decode_arrow(flags) == [True, False, True]
    chunks = standins.Applied("arrow chunks", ([numbers, flags], None))
    assert decode_arrow(chunks) == [0.5, -76.5, True, False, True]
    with pytest.raises(NotRead, match="date32"):
        decode_arrow(_arrow("date32[day]", 1, 0, None, b"\0" * 4))


@pytest.mark.parametrize(
    "column",
    [
        _arrow("double", 3, 0, None, struct.pack("<2d", 0.5, -76.5)),
        _arrow("double", 1, 2, None, struct.pack("<2d", 0.5, -76.5)),
        _arrow("double", -1, 0, None, b""),
        _arrow("int64", 9, 0, b"\xff", bytes(72)),
        _arrow("string", 2, 0, None, struct.pack("<3i", 0, 2, 1), b"abc"),
        _arrow("string", 2, 0, None, struct.pack("<3i", 0, 2, 9), b"abc"),
        _arrow("string", 2**31, 0, None, struct.pack("<3i", 0, 2, 3), b"abc"),
        _arrow("string", 1, 0, None, struct.pack("<2i", 0, 1), b"\xff"),
        standins.Applied("arrow chunks", ([None], None)),
        None,
    ],
)
def test_damaged_arrow_columns(column: Any) -> None:
    with pytest.raises(ValueError):
        decode_arrow(column)


def test_arrow_chunks_do_not_multiply(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ase_knncalc.data.jkqc.arrow.MAX_ROWS", 100)
    chunk = _arrow("int8", 50, 0, None, bytes(50))
    with pytest.raises(ValueError, match="too many rows"):
        decode_arrow(standins.Applied("arrow chunks", ([chunk] * 3, None)))


def test_columns_of_other_types_do_no_harm(tmp_path: Path) -> None:
    """A column of dates is passed over, and an error where it is wanted."""
    path = tmp_path / "dates.pkl"
    data = PICKLES["pandas 2, own types, calculators"]
    assert data.count(b"CategoricalDtype") == data.count(b"\x8c\x0bCategorical\x94") == 1
    path.write_bytes(data.replace(b"\x8c\x0bCategorical\x94", b"\x8c\x0bDatetimeArr\x94"))
    assert "composition" not in read_table(path).columns
    with pytest.raises(DataError, match=r"column \('info', 'cluster_type'\).*not read"):
        read_jkqc(path)


def test_refusal_names_the_forbidden_global(tmp_path: Path) -> None:
    path = tmp_path / "hostile.pkl"
    path.write_bytes(pickle.dumps(_Call(os.system, "true"), protocol=4))
    with pytest.raises(DataError, match=rf"the name {os.system.__module__}\.system"):
        read_jkqc(path)


def _global(module: str, name: str) -> bytes:
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


@pytest.mark.parametrize(
    "program",
    [
        # functools.partial of what is allowed, but not applied to a block
        _global("functools", "partial") + _global("ase.atoms", "Atoms") + b"\x85R.",
        # a dotted name behind an allowed module
        b"\x8c\x0bpandas.core\x8c\x10frame.os.system\x94\x93.",
        _global("numpy", "dtype.__class__") + b".",
        # protocol 0 and extension opcodes, out-of-band buffers, persistent names
        b"(S'x'\ni" + b"os\nsystem\n.",
        b"\x82\x01.",
        b"\x97.",
        b"Pname\n.",
    ],
)
def test_hand_made_programs_are_refused(tmp_path: Path, program: bytes) -> None:
    path = tmp_path / "hand.pkl"
    path.write_bytes(b"\x80\x05" + program)
    with pytest.raises(DataError, match=r"hand\.pkl"):
        read_jkqc(path)


@pytest.mark.parametrize("key", sorted(standins._STAND_INS))
@pytest.mark.parametrize("slots", [False, True])
def test_stand_ins_cannot_be_changed(tmp_path: Path, key: tuple[str, str], slots: bool) -> None:
    """BUILD sets attributes on what has no ``__setstate__``: on a function for all that follow."""
    path = tmp_path / "build.pkl"
    state = b"}\x8c\x05kind1\x8c\x01xs"
    state = b"N" + state + b"\x86" if slots else state
    path.write_bytes(b"\x80\x05" + _global(*key) + state + b"b.")
    before = dict(vars(standins))
    with pytest.raises(DataError, match=r"build\.pkl"):
        read_jkqc(path)
    assert not hasattr(standins._STAND_INS[key], "kind1")
    assert dict(vars(standins)) == before


@pytest.mark.parametrize(
    "program",
    [
        b"Nr\xff\xff\xff\x7f.",  # LONG_BINPUT: room for two thousand million entries
        b"\x8d\xff\xff\xff\xff\xff\x00\x00\x00abc.",  # a text of a terabyte
        b"\x96\xff\xff\xff\xff\xff\x00\x00\x00abc.",  # a bytearray of a terabyte
        b"\x95\xff\xff\xff\xff\xff\x00\x00\x00N.",  # a frame of a terabyte
    ],
)
def test_absurd_sizes_are_refused(tmp_path: Path, program: bytes) -> None:
    path = tmp_path / "big.pkl"
    path.write_bytes(b"\x80\x05" + program)
    with pytest.raises(DataError, match=r"big\.pkl"):
        read_jkqc(path)


@pytest.mark.parametrize(
    "program",
    [
        # the key of a dictionary: a tuple a million deep, whose hash overflows the C stack
        b"})" + b"\x85" * 1_000_000 + b"K\x01s.",
        # a tuple of the same tuple twice, 60 times over, whose hash takes 2⁶⁰ steps
        b"})\x94" + b"".join(b"h" + bytes([i]) + b"\x86\x94" for i in range(60)) + b"K\x01s.",
        # and one of a thousand of the same, three times over
        b"})\x94"
        + b"".join(b"(" + bytes([104, i]) * 999 + b"t\x94" for i in range(3))
        + b"K\x01s.",
        # deep in other ways, which Python takes: lists, objects in the state of objects, calls
        b"]" * 100_000 + b"a" * 99_999 + b".",
        b"case.atoms\nAtoms\n)\x81" * 100_000 + b"N" + b"b" * 100_000 + b".",
        b"cbuiltins\nslice\n" * 100_000 + b"N" + b"\x85R" * 100_000 + b".",
        # an unknown memo number, and a value taken from an empty stack
        b"h\x07.",
        b"\x85.",
        b"(\x85.",
    ],
    ids=["deep", "twice", "wide", "lists", "states", "calls", "memo", "empty", "mark"],
)
def test_nesting_neither_crashes_nor_stalls(tmp_path: Path, program: bytes) -> None:
    """In a process of its own: the unpickler would crash the interpreter, or never end."""
    path = tmp_path / "bomb.pkl"
    path.write_bytes(b"\x80\x05" + program)
    script = (
        "import sys\nfrom ase_knncalc.data import read_jkqc\n"
        "from ase_knncalc.errors import DataError\n"
        "try: read_jkqc(sys.argv[1])\nexcept DataError as e: print(str(e)[:400])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "bomb.pkl" in done.stdout


def test_names_of_columns_are_texts(tmp_path: Path) -> None:
    """``str()`` of lists in lists, each there twice, would be longer than any memory."""
    data = PICKLES["pandas 2, protocol 4"]
    name = b"\x8c\x03xyz\x94et"
    assert data.count(name) == 1
    path = tmp_path / "names.pkl"
    path.write_bytes(data.replace(name, b"]M\x01\x01a\x94et"))
    with pytest.raises(DataError, match=r"names\.pkl.*no texts"):
        read_jkqc(path)


def test_absurd_shapes_are_refused(tmp_path: Path) -> None:
    data = PICKLES["pandas 2, protocol 4"]
    matrix = b"K\x03K\x03\x86"  # the shape (3, 3), of a cell, positions or forces
    path = tmp_path / "shape.pkl"
    path.write_bytes(data.replace(matrix, b"K\x03K\xc8\x86"))
    with pytest.raises(DataError, match="size than its shape"):
        read_jkqc(path)


def test_huge_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "huge.pkl"
    with open(path, "wb") as handle:
        handle.truncate(unpickle.MAX_BYTES + 1)  # sparse
    with pytest.raises(DataError, match=r"huge\.pkl: a pickle of 4\.0 GiB"):
        read_jkqc(path)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, 2], "no table"),
        (np.zeros(3), "no table"),
        (Atoms("H"), "no table"),
    ],
)
def test_other_pickles(tmp_path: Path, value: Any, message: str) -> None:
    path = tmp_path / "other.pkl"
    path.write_bytes(pickle.dumps(value, protocol=4))
    with pytest.raises(DataError, match=message):
        read_jkqc(path)


def test_other_table(write: _Writer) -> None:
    path = write("table", (b"file_basename", b"life_basename"))
    with pytest.raises(DataError, match=r"no column \('info', 'file_basename'\).*life_basename"):
        read_jkqc(path)


def test_missing_values(write: _Writer) -> None:
    nan = struct.pack("<d", float("nan"))
    frames = read_jkqc(write("nan", (struct.pack("<d", -76.5), nan)))
    assert "reference_energy" not in frames[0].info
    dataset = read_dataset(frames)
    assert [(o.name, o.category) for o in dataset.omitted] == [("1w-0", "missing-reference")]


def _read_damaged(path: Path, data: bytes) -> None:
    """Either frames, or an error that names the file: never anything else."""
    path.write_bytes(data)
    try:
        frames = read_jkqc(path)
    except DataError as e:
        message = str(e)
    else:
        message = path.name
        for atoms in frames:
            assert isinstance(atoms.info["name"], str)
            assert atoms.positions.shape == (len(atoms), 3)
            assert isinstance(atoms.info.get("reference_energy", 0.0), float)
    assert path.name in message


@pytest.mark.parametrize("version", PICKLES)
def test_every_truncation_is_a_data_error(tmp_path: Path, version: str) -> None:
    data = PICKLES[version]
    path = tmp_path / "cut.pkl"
    for length in range(1, len(data), 23):
        path.write_bytes(data[:length])
        with pytest.raises(DataError, match=r"cut\.pkl"):
            read_jkqc(path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:pickletools")
@given(st.sampled_from(sorted(PICKLES)), st.data())
@settings(max_examples=200, deadline=None)
def test_every_mutation_is_frames_or_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, version: str, data: st.DataObject
) -> None:
    raw = bytearray(PICKLES[version])
    for _ in range(data.draw(st.integers(1, 5))):
        place = data.draw(st.integers(0, len(raw) - 1))
        kind = data.draw(st.sampled_from(["change", "insert", "delete"]))
        if kind == "change":
            raw[place] = data.draw(st.integers(0, 255))
        elif kind == "insert":
            raw[place:place] = data.draw(st.binary(min_size=1, max_size=6))
        else:
            del raw[place : place + data.draw(st.integers(1, 20))]
    _read_damaged(tmp_path_factory.mktemp("mutated") / "mutated.pkl", bytes(raw))


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, program: bytes
) -> None:
    path = tmp_path_factory.mktemp("any") / "any.pkl"
    path.write_bytes(b"\x80\x05" + program)
    with pytest.raises(DataError, match=r"any\.pkl"):
        read_jkqc(path)


def test_arrays_are_those_of_numpy() -> None:
    """Orders, byte orders and types, through the same stand-ins that tables use."""
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(3, 4))
    for array in (
        matrix,
        np.asfortranarray(matrix),
        matrix.astype(">f8"),
        matrix.astype("f4"),
        np.arange(6, dtype="i1").reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3)),
        np.array([True, False]),
        np.zeros((0, 3)),
        np.array(2.5),
    ):
        for protocol in (2, 3, 4, 5):
            stand_in = io.BytesIO(pickle.dumps(array, protocol=protocol))
            found = as_array(standins._TableUnpickler(stand_in).load())
            np.testing.assert_array_equal(found, array.reshape(found.shape))
            assert found.dtype == array.dtype.newbyteorder("=")


def test_nothing_to_cite_is_no_citation(shared_data: Path) -> None:
    frames = [a for p in sorted((shared_data / "jkqc").glob("*.pkl")) for a in read_jkqc(p)]
    assert len(frames) > 80
    assert not any("citation" in a.info for a in frames)
