"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const tooltip = document.getElementById("tooltip");
  const COLORS = { training: "#2a6ab0", test: "#d9601a" };
  const DARK = { training: "#123a66", test: "#8f3606" };
  const RAMP = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];

  // A canvas with one unit for one CSS pixel, sharp on every screen.
  function context(canvas) {
    const ratio = window.devicePixelRatio || 1;
    const { clientWidth: width, clientHeight: height } = canvas;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    const ctx = canvas.getContext("2d");
    ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    return { ctx, width, height };
  }

  function ramp(t) {
    const place = Math.min(Math.max(t, 0), 1) * (RAMP.length - 1);
    const i = Math.min(Math.floor(place), RAMP.length - 2);
    const mixed = RAMP[i].map((c, k) => Math.round(c + (place - i) * (RAMP[i + 1][k] - c)));
    return `rgb(${mixed.join(",")})`;
  }

  function showTooltip(text, event) {
    tooltip.textContent = text;
    tooltip.hidden = false;
    const box = tooltip.getBoundingClientRect();
    const left = event.clientX + 14 + box.width > innerWidth ? event.clientX - box.width - 10 : event.clientX + 14;
    tooltip.style.left = `${Math.max(0, left)}px`;
    tooltip.style.top = `${Math.max(0, Math.min(event.clientY + 14, innerHeight - box.height - 4))}px`;
  }

  // ----- figures ---------------------------------------------------------------------------------

  const short = (x) => (x === 0 ? "0" : Math.abs(x) >= 1e5 || Math.abs(x) < 1e-3 ? x.toExponential(1) : String(+x.toPrecision(4)));

  function ticks(low, high, log) {
    if (log) {
      const found = [];
      const factors = high / low > 300 ? [1] : [1, 2, 5];
      for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++)
        for (const f of factors) found.push(+(f * 10 ** e).toPrecision(3));
      const inside = found.filter((t) => t >= low && t <= high);
      if (inside.length > 2) return inside;
    }
    const rough = (high - low) / 5, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((f) => f * power).find((s) => s >= rough);
    const found = [];
    for (let i = Math.ceil(low / step); i * step <= high * (1 + 1e-12); i++) found.push(+(i * step).toPrecision(12));
    return found;
  }

  function range(values, log) {
    let low = Infinity, high = -Infinity;
    for (const v of values)
      if (v !== null && (!log || v > 0)) { low = Math.min(low, v); high = Math.max(high, v); }
    if (low > high) [low, high] = log ? [0.1, 1] : [0, 1];
    if (low === high) [low, high] = log ? [low / 2, high * 2] : [low - 0.5, high + 0.5];
    if (log) { const pad = (high / low) ** 0.05; return [low / pad, high * pad]; }
    const pad = 0.05 * (high - low);
    return [low - pad, high + pad];
  }

  function draw(spec) {
    const host = document.getElementById(spec.id), canvas = host.querySelector("canvas");
    const series = spec.series;
    for (const s of series) if (s.value) {
      // Colours follow ranks in the logarithm's middle 96 %: one wild value must not fade the rest.
      const sorted = s.value.filter((v) => v > 0).sort((a, b) => a - b);
      s.ends = sorted.length ? [sorted[Math.floor(0.02 * sorted.length)], sorted[Math.floor(0.98 * (sorted.length - 1))]] : [0.1, 1];
      const [a, b] = s.ends.map(Math.log);
      s.colors = s.value.map((v) => ramp(v > 0 && b > a ? (Math.log(v) - a) / (b - a) : 0));
    }
    const all = (axis) => series.flatMap((s) => (s.bars && axis === "y" ? [...s.y, ...s.bars[0], ...s.bars[1]] : s[axis]));
    let whole = { x: range(all("x"), spec.xlog), y: range(all("y"), spec.ylog) };
    if (spec.diagonal && !spec.xlog) {
      const both = [Math.min(whole.x[0], whole.y[0]), Math.max(whole.x[1], whole.y[1])];
      whole = { x: both, y: both };
    }
    let view = whole, picked = null, box = null;
    const margin = { left: 62, right: 14, top: 8, bottom: 44 };
    let scale = null;

    function render() {
      const { ctx, width, height } = context(canvas);
      const w = width - margin.left - margin.right, h = height - margin.top - margin.bottom;
      const place = (v, [low, high], log) => (log ? (Math.log(v) - Math.log(low)) / (Math.log(high) - Math.log(low)) : (v - low) / (high - low));
      const value = (t, [low, high], log) => (log ? Math.exp(Math.log(low) + t * (Math.log(high) - Math.log(low))) : low + t * (high - low));
      scale = {
        x: (v) => margin.left + w * place(v, view.x, spec.xlog),
        y: (v) => margin.top + h * (1 - place(v, view.y, spec.ylog)),
        fromX: (p) => value((p - margin.left) / w, view.x, spec.xlog),
        fromY: (p) => value(1 - (p - margin.top) / h, view.y, spec.ylog),
      };
      ctx.clearRect(0, 0, width, height);
      ctx.fillStyle = "#fff";
      ctx.fillRect(margin.left, margin.top, w, h);
      ctx.font = "12px system-ui, sans-serif";
      ctx.lineWidth = 1;
      ctx.textAlign = "center";
      for (const t of ticks(...view.x, spec.xlog)) {
        const p = scale.x(t);
        ctx.strokeStyle = "#e6eaef";
        ctx.beginPath(); ctx.moveTo(p, margin.top); ctx.lineTo(p, margin.top + h); ctx.stroke();
        ctx.fillStyle = "#46535f";
        ctx.fillText(short(t), p, margin.top + h + 16);
      }
      ctx.textAlign = "right";
      for (const t of ticks(...view.y, spec.ylog)) {
        const p = scale.y(t);
        ctx.beginPath(); ctx.moveTo(margin.left, p); ctx.lineTo(margin.left + w, p); ctx.stroke();
        ctx.fillStyle = "#46535f";
        ctx.fillText(short(t), margin.left - 6, p + 4);
      }
      ctx.strokeStyle = "#9aa5b1";
      ctx.strokeRect(margin.left, margin.top, w, h);
      ctx.fillStyle = "#1d2733";
      ctx.textAlign = "center";
      ctx.fillText(spec.xlabel, margin.left + w / 2, height - 8);
      ctx.save(); ctx.translate(14, margin.top + h / 2); ctx.rotate(-Math.PI / 2); ctx.fillText(spec.ylabel, 0, 0); ctx.restore();
      ctx.save();
      ctx.beginPath(); ctx.rect(margin.left, margin.top, w, h); ctx.clip();
      for (const s of series) if (s.style === "points") points(ctx, s);
      if (spec.diagonal) {
        const low = Math.max(view.x[0], view.y[0]), high = Math.min(view.x[1], view.y[1]);
        ctx.strokeStyle = "#1d2733"; ctx.lineWidth = 1; ctx.setLineDash([5, 4]);
        ctx.beginPath(); ctx.moveTo(scale.x(low), scale.y(low)); ctx.lineTo(scale.x(high), scale.y(high)); ctx.stroke();
        ctx.setLineDash([]);
      }
      for (const s of series) if (s.style === "line") line(ctx, s);
      if (picked) {
        ctx.strokeStyle = "#000"; ctx.lineWidth = 2;
        ctx.beginPath(); ctx.arc(scale.x(picked.s.x[picked.i]), scale.y(picked.s.y[picked.i]), 6, 0, 7); ctx.stroke();
      }
      if (box) {
        ctx.fillStyle = "rgba(31,95,168,0.12)"; ctx.strokeStyle = "#1f5fa8"; ctx.lineWidth = 1;
        ctx.fillRect(box[0], box[1], box[2] - box[0], box[3] - box[1]);
        ctx.strokeRect(box[0], box[1], box[2] - box[0], box[3] - box[1]);
      }
      ctx.restore();
    }

    function points(ctx, s) {
      const radius = s.x.length > 3000 ? 2 : 2.8;
      ctx.globalAlpha = s.colors ? 0.85 : s.x.length > 3000 ? 0.3 : s.x.length > 400 ? 0.45 : 0.7;
      for (let i = 0; i < s.x.length; i++) {
        if (s.x[i] === null || s.y[i] === null) continue;
        ctx.fillStyle = s.colors ? s.colors[i] : COLORS[s.set];
        ctx.beginPath(); ctx.arc(scale.x(s.x[i]), scale.y(s.y[i]), radius, 0, 7); ctx.fill();
      }
      ctx.globalAlpha = 1;
    }

    function line(ctx, s) {
      ctx.strokeStyle = ctx.fillStyle = DARK[s.set]; ctx.lineWidth = 2;
      ctx.beginPath();
      s.x.forEach((x, i) => (i ? ctx.lineTo(scale.x(x), scale.y(s.y[i])) : ctx.moveTo(scale.x(x), scale.y(s.y[i]))));
      ctx.stroke();
      s.x.forEach((x, i) => {
        ctx.beginPath(); ctx.arc(scale.x(x), scale.y(s.y[i]), 3, 0, 7); ctx.fill();
        if (s.bars) { ctx.lineWidth = 1.2; ctx.beginPath(); ctx.moveTo(scale.x(x), scale.y(s.bars[0][i])); ctx.lineTo(scale.x(x), scale.y(s.bars[1][i])); ctx.stroke(); }
      });
    }

    function nearest(px, py) {
      let best = null, limit = 12 * 12;
      for (const s of series)
        for (let i = 0; i < s.x.length; i++) {
          if (s.x[i] === null || s.y[i] === null) continue;
          const d = (scale.x(s.x[i]) - px) ** 2 + (scale.y(s.y[i]) - py) ** 2;
          if (d < limit) { limit = d; best = { s, i }; }
        }
      return best;
    }

    const at = (event) => { const r = canvas.getBoundingClientRect(); return [event.clientX - r.left, event.clientY - r.top]; };
    let start = null;
    canvas.addEventListener("pointerdown", (event) => { if (event.button === 0) { start = at(event); canvas.setPointerCapture(event.pointerId); } });
    canvas.addEventListener("pointermove", (event) => {
      const [px, py] = at(event);
      if (start && Math.hypot(px - start[0], py - start[1]) > 6) { box = [...start, px, py]; tooltip.hidden = true; render(); return; }
      const found = nearest(px, py);
      if (found && picked && found.s === picked.s && found.i === picked.i) { showTooltip(describe(found), event); return; }
      if (!found && !picked) return;
      picked = found;
      render();
      if (found) showTooltip(describe(found), event); else tooltip.hidden = true;
    });
    canvas.addEventListener("pointerup", (event) => {
      if (box) {
        const xs = [box[0], box[2]].map(scale.fromX).sort((a, b) => a - b), ys = [box[1], box[3]].map(scale.fromY).sort((a, b) => a - b);
        if (Math.abs(box[2] - box[0]) > 8 && Math.abs(box[3] - box[1]) > 8) view = { x: xs, y: ys };
      } else if (start) {
        const found = nearest(...at(event));
        if (found && found.s.labels) viewer.show(`${found.s.labels}:${found.i}`);
      }
      start = box = null;
      render();
    });
    canvas.addEventListener("pointercancel", () => { start = box = null; render(); });
    canvas.addEventListener("dblclick", () => { view = whole; render(); });
    canvas.addEventListener("pointerleave", () => { tooltip.hidden = true; if (picked) { picked = null; render(); } });

    function describe({ s, i }) {
      const lines = [s.labels ? data.labels[s.labels][i] : s.name, `${spec.xlabel}: ${short(s.x[i])}`, `${spec.ylabel}: ${short(s.y[i])}`];
      if (s.value && s.value[i] !== null) lines.push(`${s.valuelabel}: ${short(s.value[i])}`);
      if (s.bars) lines.push(`${short(s.bars[0][i])} to ${short(s.bars[1][i])}`);
      return lines.join("\n");
    }

    const legend = host.querySelector(".legend");
    for (const s of series) {
      const entry = document.createElement("span"), mark = document.createElement("i");
      if (s.colors) {
        mark.className = "ramp";
        mark.style.background = `linear-gradient(90deg, ${[0, 0.25, 0.5, 0.75, 1].map(ramp).join(", ")})`;
        entry.append(`${s.name}; ${s.valuelabel}: ${short(s.ends[0])}`, mark, short(s.ends[1]));
      } else {
        if (s.style === "line") { mark.className = "line"; mark.style.borderColor = DARK[s.set]; } else mark.style.background = COLORS[s.set];
        entry.append(mark, s.name);
      }
      legend.append(entry);
    }
    render();
    new ResizeObserver(render).observe(canvas);
  }

  // ----- structures ------------------------------------------------------------------------------

  const viewer = (() => {
    const host = document.getElementById("viewer"), canvas = host.querySelector("canvas");
    let shown = null, bonds = [], rotation = null, zoom = 1, drag = null;

    function turn(dx, dy) {
      const [a, b] = [dx, dy].map((d) => d * 0.01), [ca, sa, cb, sb] = [Math.cos(a), Math.sin(a), Math.cos(b), Math.sin(b)];
      const step = [[ca, 0, sa], [sa * sb, cb, -ca * sb], [-sa * cb, sb, ca * cb]];
      rotation = step.map((row) => [0, 1, 2].map((k) => row[0] * rotation[0][k] + row[1] * rotation[1][k] + row[2] * rotation[2][k]));
      render();
    }

    function connect(s) {
      const found = [], r = s.symbols.map((e) => data.elements[e].radius);
      const near = (i, j) => Math.hypot(...s.positions[i].map((x, k) => x - s.positions[j][k]));
      for (let i = 0; i < r.length; i++)
        for (let j = 0; j < i; j++) {
          const d = near(i, j), pair = [s.symbols[i], s.symbols[j]];
          if (d < 1.25 * (r[i] + r[j])) found.push([i, j, false]);
          else if (d < 2.3 && pair.includes("H") && (pair.includes("O") || pair.includes("N"))) found.push([i, j, true]);
        }
      // A hydrogen bond needs a hydrogen that is bound to N or O, not to carbon, and is not within one molecule's angle.
      const partner = (h) => found.filter(([i, j, dashed]) => !dashed && (i === h || j === h)).map(([i, j]) => (i === h ? j : i));
      return found.filter(([i, j, dashed]) => {
        if (!dashed) return true;
        const h = s.symbols[i] === "H" ? i : j, a = h === i ? j : i, bound = partner(h);
        return bound.some((b) => "NO".includes(s.symbols[b])) && !partner(a).some((b) => bound.includes(b));
      });
    }

    function render() {
      if (!shown) return;
      const { ctx, width, height } = context(canvas);
      const reach = Math.max(2, ...shown.positions.map((p) => Math.hypot(...p))) + 1;
      const unit = (zoom * Math.min(width, height)) / (2 * reach);
      const turned = shown.positions.map((p) => rotation.map((row) => row[0] * p[0] + row[1] * p[1] + row[2] * p[2]));
      const flat = turned.map(([x, y, z]) => { const depth = 4 * reach / (4 * reach - z); return [width / 2 + unit * x * depth, height / 2 - unit * y * depth, z, depth]; });
      const fog = (z) => 0.55 * Math.min(1, Math.max(0, (reach - z) / (2 * reach)));
      const items = flat.map((p, i) => ({ z: p[2], atom: i }));
      for (const [i, j, dashed] of bonds) items.push({ z: (flat[i][2] + flat[j][2]) / 2 - 0.01, bond: [i, j, dashed] });
      items.sort((a, b) => a.z - b.z);
      ctx.clearRect(0, 0, width, height);
      for (const item of items) {
        if (item.bond) {
          const [i, j, dashed] = item.bond, [a, b] = [flat[i], flat[j]];
          const grey = Math.round(90 + 140 * fog(item.z));
          ctx.strokeStyle = dashed ? `rgb(${grey},${grey},${Math.min(255, grey + 60)})` : `rgb(${grey},${grey},${grey})`;
          ctx.lineWidth = dashed ? 1.5 : Math.max(1.5, 0.16 * unit);
          ctx.setLineDash(dashed ? [4, 4] : []);
          ctx.beginPath(); ctx.moveTo(a[0], a[1]); ctx.lineTo(b[0], b[1]); ctx.stroke();
          ctx.setLineDash([]);
        } else {
          const [x, y, z, depth] = flat[item.atom], element = data.elements[shown.symbols[item.atom]];
          const radius = Math.max(3, unit * depth * (0.12 + 0.36 * element.radius));
          const shade = ctx.createRadialGradient(x - radius / 3, y - radius / 3, radius / 8, x, y, radius);
          shade.addColorStop(0, "#ffffff"); shade.addColorStop(0.25, element.color); shade.addColorStop(1, element.color);
          ctx.fillStyle = shade;
          ctx.beginPath(); ctx.arc(x, y, radius, 0, 7); ctx.fill();
          ctx.fillStyle = `rgba(255,255,255,${fog(z)})`; ctx.fill();
          ctx.strokeStyle = `rgba(40,50,60,${0.75 - fog(z)})`; ctx.lineWidth = 1; ctx.stroke();
        }
      }
    }

    function show(key) {
      const found = data.structures[key];
      if (!found) return;
      shown = found; bonds = connect(found); rotation = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]; zoom = 1;
      host.hidden = false;
      host.querySelector(".name").textContent = found.name;
      host.querySelector(".text").textContent = `${found.text}; ${found.symbols.length} atoms`;
      for (const b of document.querySelectorAll("button[data-structure]")) b.setAttribute("aria-pressed", String(b.dataset.structure === key));
      turn(40, 25);
    }

    canvas.addEventListener("pointerdown", (event) => { drag = [event.clientX, event.clientY]; canvas.setPointerCapture(event.pointerId); });
    canvas.addEventListener("pointermove", (event) => { if (drag) { turn(event.clientX - drag[0], event.clientY - drag[1]); drag = [event.clientX, event.clientY]; } });
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { drag = null; });
    const scaleBy = (f) => { zoom = Math.min(6, Math.max(0.4, zoom * f)); render(); };
    canvas.addEventListener("wheel", (event) => { event.preventDefault(); scaleBy(event.deltaY < 0 ? 1.1 : 1 / 1.1); }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const keys = { ArrowLeft: [-12, 0], ArrowRight: [12, 0], ArrowUp: [0, -12], ArrowDown: [0, 12] };
      if (keys[event.key]) { event.preventDefault(); turn(...keys[event.key]); }
      else if (event.key === "+" || event.key === "-") scaleBy(event.key === "+" ? 1.15 : 1 / 1.15);
    });
    new ResizeObserver(render).observe(canvas);
    return { show };
  })();

  // ----- tables ----------------------------------------------------------------------------------

  const collator = new Intl.Collator(undefined, { numeric: true });
  for (const table of document.querySelectorAll("table.sortable"))
    table.querySelectorAll("th").forEach((head, column) => head.addEventListener("click", () => {
      const body = table.tBodies[0], down = head.getAttribute("aria-sort") === "ascending";
      const key = (row) => { const cell = row.cells[column]; return cell.dataset.value === undefined ? cell.textContent : cell.dataset.value === "" ? -Infinity : Number(cell.dataset.value); };
      const order = (a, b) => { const [x, y] = [key(a), key(b)]; return typeof x === "string" ? collator.compare(x, y) : x - y; };
      const rows = [...body.rows].sort((a, b) => (down ? order(b, a) : order(a, b)));
      for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      body.append(...rows);
    }));

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-structure]");
    if (button) viewer.show(button.dataset.structure);
  });
  data.figures.forEach(draw);
  const first = document.querySelector("button[data-structure]");
  if (first) viewer.show(first.dataset.structure);
  document.body.dataset.ready = String(data.figures.length);
})();
