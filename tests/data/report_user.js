// What a person would do on the page of a report, and what it leads to, as JSON in the document.
{
  const log = {};
  const image = (c) => c.toDataURL();
  const fire = (c, type, x, y) => {
    const r = c.getBoundingClientRect();
    const place = { clientX: r.left + x, clientY: r.top + y };
    c.dispatchEvent(new PointerEvent(type, { ...place, button: 0, pointerId: 1, bubbles: true }));
  };
  HTMLCanvasElement.prototype.setPointerCapture = () => {};
  log.blank = [...document.querySelectorAll("figure canvas")].filter((c) => {
    const pixels = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
    return new Set(new Uint32Array(pixels.buffer)).size < 10;
  }).length;
  const view = document.querySelector("#viewer canvas");
  log.first = document.querySelector("#viewer .name").textContent;
  const buttons = [...document.querySelectorAll("button[data-structure^='test']")];
  buttons[1].click();
  log.second = document.querySelector("#viewer .name").textContent;
  log.expected = buttons[1].textContent;
  let before = image(view);
  fire(view, "pointerdown", 100, 100); fire(view, "pointermove", 160, 130); fire(view, "pointerup", 160, 130);
  log.turned = image(view) !== before;
  before = image(view);
  view.dispatchEvent(new WheelEvent("wheel", { deltaY: -100, cancelable: true }));
  log.zoomed = image(view) !== before;
  const map = document.querySelector("#map canvas");
  const tips = new Set();
  for (let x = 70; x < map.clientWidth - 20; x += 12)
    for (let y = 10; y < map.clientHeight - 50; y += 12) {
      fire(map, "pointermove", x, y);
      if (!document.getElementById("tooltip").hidden) tips.add(document.getElementById("tooltip").textContent.split("\n")[0]);
    }
  log.tips = [...tips];
  before = image(map);
  fire(map, "pointerdown", 150, 50); fire(map, "pointermove", 400, 250); fire(map, "pointerup", 400, 250);
  fire(map, "pointerleave", 0, 0);
  const zoomed = image(map);
  log.enlarged = zoomed !== before;
  map.dispatchEvent(new MouseEvent("dblclick"));
  log.back = image(map) !== zoomed;
  const table = document.querySelector("#compositions table"), heads = table.querySelectorAll("th");
  const column = (k) => [...table.tBodies[0].rows].map((r) => r.cells[k].textContent);
  heads[0].click(); log.ascending = column(0);
  heads[0].click(); log.descending = column(0);
  log.figures = document.body.dataset.ready;
  const result = document.createElement("pre");
  result.id = "log";
  result.textContent = JSON.stringify(log);
  document.body.append(result);
}
