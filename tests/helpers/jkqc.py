"""JKQC databases as several versions of pandas wrote them."""

from __future__ import annotations

import base64
import zlib

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
