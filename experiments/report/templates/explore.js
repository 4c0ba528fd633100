"use strict";
// Shows stored paths of optimizers; nothing is computed here but places on the screen.
const data = JSON.parse(document.getElementById("data").textContent);
const element = name => document.getElementById(name);
const SIZE = 300, COLORS = data.colors;
const chosen = { surface: 0, shown: data.methods.map(() => true), playing: 0 };

const numbers = text => { // 16-bit numbers as they were stored, of all paths or losses
  const bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
  return new Int16Array(bytes.buffer);
};
const paths = numbers(data.paths), losses = numbers(data.losses), steps = data.steps.length;
const first = method => // of the run that is chosen, among all runs: surface, method, rate, memory
  ((chosen.surface * data.methods.length + method) * data.rates.length + +element("eta").value) * data.memories.length
  + (data.remember[method] ? +element("gamma").value : 0);

const draw = (parent, name, attributes, words) => {
  const found = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) found.setAttribute(key, value);
  if (words) found.textContent = words;
  return parent.appendChild(found);
};
const line = places => "M" + places.map(place => place.map(value => value.toFixed(1)).join(" ")).join("L");

function plane(last) {
  const svg = element("plane"), { ground } = data.surfaces[chosen.surface];
  svg.setAttribute("viewBox", `0 0 ${SIZE} ${SIZE}`);
  svg.replaceChildren();
  ground.forEach((level, i) => draw(svg, "path", { d: level, class: "ground", opacity: (i + 1) / ground.length }));
  data.methods.forEach((name, method) => {
    if (!chosen.shown[method]) return;
    const at = 2 * steps * first(method);
    const left = data.steps.findIndex((_, k) => k > last || paths[at + 2 * k] === data.outside);
    const places = data.steps.slice(0, left < 0 ? steps : left).map((_, k) =>
      [paths[at + 2 * k], paths[at + 2 * k + 1]].map(value => value / data.side * SIZE));
    draw(svg, "path", { d: line(places), class: "way", stroke: COLORS[method] });
    const [x, y] = places[places.length - 1];
    draw(svg, "circle", { cx: x, cy: y, r: 4.5, fill: COLORS[method], class: "end" });
  });
}

function loss(last) {
  const svg = element("loss"), [low, high] = data.decades;
  const across = k => 34 + (SIZE - 40) * Math.log(1 + data.steps[k]) / Math.log(1 + data.steps[steps - 1]);
  const up = decade => SIZE - 24 - (SIZE - 34) * (decade - low) / (high - low);
  svg.setAttribute("viewBox", `0 0 ${SIZE} ${SIZE}`);
  svg.replaceChildren();
  for (let decade = Math.ceil(low); decade <= high; decade += 2) {
    draw(svg, "path", { d: line([[34, up(decade)], [SIZE, up(decade)]]), class: "grid" });
    draw(svg, "text", { x: 30, y: up(decade) + 4, "text-anchor": "end" }, data.labels[decade]);
  }
  for (const step of [1, 10, 100]) {
    const k = data.steps.findIndex(value => value >= step);
    if (k > 0) draw(svg, "text", { x: across(k), y: SIZE - 8, "text-anchor": "middle" }, step);
  }
  data.methods.forEach((name, method) => {
    const at = steps * first(method);
    const places = data.steps.slice(0, last + 1).map((_, k) => [across(k), up(losses[at + k] / 1000)]);
    if (chosen.shown[method]) draw(svg, "path", { d: line(places), class: "way", stroke: COLORS[method] });
    element(`loss-${method}`).textContent = (10 ** (losses[at + last] / 1000)).toPrecision(2);
  });
}

function show() {
  const last = +element("step").value;
  element("eta-shown").textContent = data.rates[element("eta").value];
  element("gamma-shown").textContent = data.memories[element("gamma").value];
  element("step-shown").textContent = data.steps[last];
  plane(last);
  loss(last);
}

function play() { // from here, or from the start if this is the end; and once more to stop
  const slider = element("step");
  if (chosen.playing) clearInterval(chosen.playing);
  chosen.playing = chosen.playing ? 0 : setInterval(() => {
    slider.value = +slider.value + 1;
    show();
    if (+slider.value === steps - 1) play();
  }, 80);
  if (chosen.playing && +slider.value === steps - 1) slider.value = 0;
  element("play").textContent = chosen.playing ? "Stop" : "Play";
}

function choice(type, name, words, checked, change) { // a labelled button to choose by
  const label = document.createElement("label"), input = document.createElement("input");
  Object.assign(input, { type, name, checked, onchange: () => { change(input); show(); } });
  label.append(input, ` ${words}`);
  return label;
}

data.surfaces.forEach((surface, i) =>
  element("surfaces").append(choice("radio", "surface", surface.name, i === 0, () => { chosen.surface = i; })));
data.methods.forEach((name, method) => {
  const row = element("methods").insertRow(), head = row.appendChild(document.createElement("th"));
  head.scope = "row";
  head.append(choice("checkbox", name, name, true, input => { chosen.shown[method] = input.checked; }));
  head.style.borderLeft = `.5rem solid ${COLORS[method]}`;
  row.insertCell().id = `loss-${method}`;
});
for (const [name, count, start] of [["eta", data.rates.length, data.start[0]],
  ["gamma", data.memories.length, data.start[1]], ["step", steps, steps - 1]]) {
  Object.assign(element(name), { min: 0, max: count - 1, value: start, oninput: show });
}
element("play").onclick = play;
show();
