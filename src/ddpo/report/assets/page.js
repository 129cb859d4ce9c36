"use strict";

// The slider: every frame is a sheet of pictures (a CSS class) and the captions that belong to it.
function makeGallery(gallery) {
  const slider = gallery.querySelector("input[type=range]");
  if (!slider) return;
  const { frames } = JSON.parse(gallery.querySelector("script.frames").textContent);
  const samples = [...gallery.querySelectorAll(".samples > li")].map((item) => ({
    tile: item.querySelector(".tile"),
    prompt: item.querySelector(".prompt").textContent,
    values: [...item.querySelectorAll(".value")],
  }));
  const title = gallery.querySelector(".frame-title");
  const summary = gallery.querySelector(".frame-summary");

  function show() {
    const frame = frames[Number(slider.value)];
    title.textContent = frame.title;
    summary.textContent = frame.summary;
    slider.setAttribute("aria-valuetext", frame.title);
    samples.forEach((sample, index) => {
      if (sample.tile) {
        sample.tile.className = `tile ${frame.style}`;
        sample.tile.setAttribute("aria-label", `${sample.prompt}, ${frame.title.toLowerCase()}`);
      }
      sample.values.forEach((value, reward) => {
        value.textContent = frame.captions[index][reward];
      });
    });
  }

  slider.addEventListener("input", () => {
    stop();
    show();
  });

  const button = gallery.querySelector(".play");
  let timer = 0;
  function stop() {
    clearInterval(timer);
    timer = 0;
    button.textContent = "Play";
  }
  function advance() {
    slider.value = String((Number(slider.value) + 1) % frames.length);
    show();
    if (Number(slider.value) === frames.length - 1) stop();
  }
  button.hidden = false;
  button.addEventListener("click", () => {
    if (timer) {
      stop();
      return;
    }
    button.textContent = "Pause";
    advance();
    timer = setInterval(advance, 900);
  });
}

// The readout of a chart: the values at the place nearest to the pointer, or chosen with the arrow keys.
function makeReadout(chart) {
  const area = chart.querySelector(".area");
  const cursor = chart.querySelector(".cursor");
  const readout = chart.querySelector(".readout");
  const points = JSON.parse(chart.querySelector("script.points").textContent);
  let chosen = points.length - 1;

  function element(kind, className, text) {
    const made = document.createElement(kind);
    made.className = className;
    made.textContent = text;
    return made;
  }

  function show(index) {
    chosen = Math.max(0, Math.min(points.length - 1, index));
    const point = points[chosen];
    cursor.replaceChildren(
      ...point.rows.map((row) => {
        const mark = element("span", `mark ${row.style}`, "");
        mark.style.bottom = `${row.y}%`;
        return mark;
      }),
    );
    cursor.style.left = `${point.x}%`;
    readout.replaceChildren(
      element("p", "head", point.head),
      ...point.rows.map((row) => {
        const line = element("p", "", "");
        line.append(element("span", `key ${row.style}`, ""), `${row.name} `, element("strong", "", row.text));
        return line;
      }),
    );
    cursor.hidden = readout.hidden = false;
    const room = area.clientWidth - readout.offsetWidth;
    const beside = (point.x / 100) * area.clientWidth;
    const right = beside + 12;
    readout.style.left = `${Math.max(0, Math.min(room, right <= room ? right : beside - 12 - readout.offsetWidth))}px`;
  }

  function hide() {
    cursor.hidden = readout.hidden = true;
  }

  function follow(event) {
    const box = area.getBoundingClientRect();
    const at = (100 * (event.clientX - box.left)) / box.width;
    let nearest = 0;
    points.forEach((point, index) => {
      if (Math.abs(point.x - at) < Math.abs(points[nearest].x - at)) nearest = index;
    });
    show(nearest);
  }

  area.addEventListener("pointermove", follow);
  area.addEventListener("pointerdown", follow);
  area.addEventListener("pointerleave", (event) => {
    if (event.pointerType === "mouse") hide(); // a finger leaves at once, and the readout stays to be read
  });
  area.addEventListener("blur", hide);
  area.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: chosen - 1, ArrowRight: chosen + 1, Home: 0, End: points.length - 1 };
    if (event.key === "Escape") hide();
    if (!(event.key in moves)) return;
    event.preventDefault();
    show(readout.hidden ? chosen : moves[event.key]);
  });
}

document.querySelectorAll(".gallery").forEach(makeGallery);
document.querySelectorAll(".chart:has(.area)").forEach(makeReadout);

function openTarget() {
  const target = document.getElementById(location.hash.slice(1));
  if (target instanceof HTMLDetailsElement) {
    target.open = true;
    target.scrollIntoView();
  }
}
addEventListener("hashchange", openTarget);
openTarget();

// Print shows everything that is folded, and folds it again afterwards.
let unfolded = [];
addEventListener("beforeprint", () => {
  unfolded = [...document.querySelectorAll("details:not([open])")];
  unfolded.forEach((details) => { details.open = true; });
});
addEventListener("afterprint", () => {
  unfolded.forEach((details) => { details.open = false; });
});
