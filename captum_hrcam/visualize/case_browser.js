const find = (id) => document.getElementById(id);
const about = JSON.parse(find("about").textContent);
const stored = document.querySelectorAll("script.case"); // each parsed when it is shown
const LARGEST = 512; // pixels a side that maps are drawn with
const POWER = 0.7; // of the figures: opacity grows with this power of the map

let index = 0;
let target = about.target;
let shown; // the case at index, unpacked

/** A copy of a template at the end of an element; its named parts. */
function add(template, element) {
  const root = find(template).content.firstElementChild.cloneNode(true);
  find(element).append(root);
  return { root, part: (selector) => root.querySelector(selector) };
}

function labelled(row, name, i) {
  row.part("b").textContent = name;
  if (i < 9) row.part("kbd").textContent = i + 1;
  else row.part("kbd").remove();
}

const written = (x, digits = 3) => String(Number(x.toPrecision(digits))).replace("-", "\u2212");

// ---- panels: the image, HR-CAM, the other methods

const panels = ["Image", "HR-CAM", ...about.methods].map((name) => {
  const { root, part } = add("panel", "panels");
  part("b").textContent = name;
  const view = part(".view");
  view.addEventListener("pointermove", (event) => {
    const box = view.getBoundingClientRect();
    point((event.clientX - box.x) / box.width, (event.clientY - box.y) / box.height);
  });
  view.addEventListener("pointerleave", unpoint);
  return { name, part, canvas: part("canvas"), said: part("span") };
});
const [picture, hrcam, ...others] = panels;
const mapped = [hrcam, ...others];
picture.canvas.remove();
const columns = Math.ceil(Math.sqrt(panels.length));
find("panels").style.setProperty("--columns", columns);
find("panels").style.setProperty("--rows", Math.ceil(panels.length / columns));

function point(across, down) {
  const [height, width] = shown.size;
  const cell = (share, n) => Math.min(Math.max(Math.floor(share * n), 0), n - 1);
  const [x, y] = [cell(across, width), cell(down, height)];
  const [near, far] = [0.02, 0.06].map((share) => share * Math.max(height, width));
  const [u, v] = [x + 0.5, y + 0.5];
  const cross =
    `M${u - far} ${v}H${u - near}M${u + near} ${v}H${u + far}` +
    `M${u} ${v - far}V${v - near}M${u} ${v + near}V${v + far}`;
  panels.forEach(({ part }) => part(".cross").setAttribute("d", cross));
  picture.said.textContent = `x ${x}, y ${y}`;
  for (const { canvas, values, said } of mapped) {
    const place = cell(v / height, canvas.height) * canvas.width + cell(u / width, canvas.width);
    said.textContent = `here ${written(values[place])}`;
  }
}

function unpoint() {
  panels.forEach(({ part }) => part(".cross").setAttribute("d", ""));
  picture.said.textContent = shown.size.toReversed().join(" \u00d7 ");
  for (const { values, top, said } of mapped) {
    const [low, high] = extent(values).map((x) => written(x));
    said.textContent = `${low} to ${high} of \u00b1${written(top)}`; // the scale's ends
  }
}

// ---- from a case to pixels

async function open(to) {
  index = Math.min(Math.max(to, 0), stored.length - 1);
  const wanted = index;
  find("case").selectedIndex = index;
  find("status").textContent = `${index + 1} of ${stored.length}`;
  find("previous").disabled = index === 0;
  find("next").disabled = index === stored.length - 1;
  const opened = await unpack(JSON.parse(stored[wanted].textContent));
  const image = new Image();
  image.src = opened.image;
  await image.decode(); // so that image and maps change together
  if (wanted !== index) return; // paged on meanwhile
  shown = opened;
  const [height, width] = shown.size;
  find("panels").style.setProperty("--aspect", width / height);
  for (const { part } of panels) {
    part("img").src = shown.image;
    part(".view").style.aspectRatio = `${width} / ${height}`;
    part("svg").setAttribute("viewBox", `0 0 ${width} ${height}`);
    for (const line of [".casing", ".line"]) part(line).setAttribute("d", shown.outline);
  }
  picture.part("img").alt = `Image of case ${index + 1}, ${about.titles[index]}`;
  find("mask").disabled = !shown.mask;
  find("masked").textContent = shown.mask ? "" : "none known";
  describe();
}

/** What depends on the class: its button, the layers' means, all maps. */
function describe() {
  const top = shown.scores && Math.max(...shown.scores);
  classes.forEach(({ root, part }, k) => {
    root.setAttribute("aria-pressed", k === target);
    const score = shown.scores?.[k];
    part("span").textContent = shown.scores ? (score === top ? "highest " : "") + written(score) : "";
  });
  layers.forEach(({ part }, l) => {
    const { rows, columns, values } = shown.layers[l][target];
    part("span").textContent = `${columns} \u00d7 ${rows}, ${written(mean(values), 2)}`;
  });
  const bias = shown.bias && written(shown.bias[target]);
  find("bias").textContent = shown.bias
    ? `Means plus the bias of ${bias} are the score. Where it is far below 0, tissue of any image may be red.`
    : "";
  compute();
}

function compute() {
  const shrink = Math.min(1, LARGEST / Math.max(...shown.size));
  const [height, width] = shown.size.map((side) => Math.max(1, Math.round(side * shrink)));
  const draw = (panel, values, top) => {
    [panel.canvas.height, panel.canvas.width] = [height, width];
    Object.assign(panel, { values, top });
  };
  const all = shown.layers.map((maps) => maps[target]);
  const kept = all.filter((_, l) => layers[l].part("input").checked);
  const common = find("common").checked;
  const top = (method, values) => (common && about.largest[method][target]) || largest(values);
  // On the scale of all layers, so that the part of each can be seen.
  draw(hrcam, sum(kept, height, width), top(0, sum(all, height, width)));
  others.forEach((panel, i) => {
    const values = sum([shown.methods[i][target]], height, width);
    draw(panel, values, top(i + 1, values));
  });
  unpoint();
  paint();
}

function paint() {
  for (const id of ["threshold", "opacity"]) find(`${id}-value`).value = `${find(id).value} %`;
  const least = find("threshold").value / 100;
  const opacity = (find("opacity").value / 100) * 255;
  const against = find("against").checked;
  for (const { name, canvas, values, top } of mapped) {
    const pixels = new ImageData(canvas.width, canvas.height);
    values.forEach((value, i) => {
      const x = Math.min(Math.max(value / top, -1), 1);
      const strength = Math.abs(x);
      if (strength < least || (x < 0 && !against)) return;
      pixels.data.set(about.colors[Math.round(127.5 + 127.5 * x)], 4 * i);
      pixels.data[4 * i + 3] = opacity * strength ** POWER;
    });
    canvas.getContext("2d").putImageData(pixels, 0, 0);
    canvas.setAttribute("aria-label", `${name} of ${about.classes[target]} on case ${index + 1}`);
  }
  find("panels").classList.toggle("bare", !find("mask").checked);
}

// ---- controls

const classes = about.classes.map((name, k) => {
  const row = add("class", "classes");
  labelled(row, name, k);
  row.root.addEventListener("click", () => ((target = k), describe()));
  return row;
});
const layers = about.layers.map((name, l) => {
  const row = add("layer", "layers");
  labelled(row, name, l);
  row.part("input").addEventListener("change", compute);
  return row;
});
about.titles.forEach((title, i) => find("case").add(new Option(`${i + 1}  ${title}`)));
find("scale").style.background = `linear-gradient(to right, ${about.colors.map((c) => `rgb(${c})`)})`;

find("previous").addEventListener("click", () => open(index - 1));
find("next").addEventListener("click", () => open(index + 1));
find("case").addEventListener("change", (event) => {
  open(event.target.selectedIndex);
  event.target.blur(); // gives the arrow keys back to paging
});
find("common").addEventListener("input", compute);
for (const id of ["mask", "against", "threshold", "opacity"]) find(id).addEventListener("input", paint);
for (const id of ["threshold", "opacity"]) find(id).addEventListener("pointerup", () => find(id).blur());

function everyLayer() {
  const boxes = layers.map(({ part }) => part("input"));
  const checked = !boxes.every((box) => box.checked);
  boxes.forEach((box) => (box.checked = checked));
  compute();
}

const KEYS = {
  ArrowLeft: () => open(index - 1),
  ArrowRight: () => open(index + 1),
  Home: () => open(0),
  End: () => open(stored.length - 1),
  Escape: () => document.activeElement.blur(),
  a: everyLayer,
  m: () => find("mask").click(),
  n: () => find("against").click(),
  s: () => find("common").click(),
  t: () => find("threshold").focus(),
  o: () => find("opacity").focus(),
};

addEventListener("keydown", (event) => {
  const { key, code, shiftKey } = event;
  if (event.ctrlKey || event.altKey || event.metaKey || event.target.matches("select")) return;
  if (event.target.matches("[type=range]") && /^(Arrow|Home|End)/.test(key)) return; // its own
  const digit = code.match(/^Digit([1-9])$/) ?? key.match(/^([1-9])$/);
  const row = digit && (shiftKey ? layers : classes)[digit[1] - 1];
  const act = digit ? row && (() => (row.part("input") ?? row.root).click()) : KEYS[key] ?? KEYS[key.toLowerCase()];
  if (!act) return;
  event.preventDefault();
  act();
});

open(0);
