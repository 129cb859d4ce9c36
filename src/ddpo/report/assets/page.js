"use strict";

// The slider: every frame has the tiles and the captions of all samples, in their order.
for (const gallery of document.querySelectorAll(".gallery:has(input)")) {
  const slider = gallery.querySelector("input");
  const frames = JSON.parse(gallery.querySelector("script").textContent);
  const samples = [...gallery.querySelectorAll(".samples > li")];
  slider.addEventListener("input", () => {
    const frame = frames[Number(slider.value)];
    gallery.querySelector(".frame-title").textContent = frame.title;
    gallery.querySelector(".frame-summary").textContent = frame.summary;
    slider.setAttribute("aria-valuetext", frame.title);
    samples.forEach((sample, index) => {
      const tile = sample.querySelector("img");
      if (tile) {
        tile.src = frame.tiles[index];
        tile.alt = `${sample.querySelector(".prompt").textContent}, ${frame.title.toLowerCase()}`;
      }
      sample.querySelectorAll(".value").forEach((value, reward) => {
        value.textContent = frame.captions[index][reward];
      });
    });
  });
}
