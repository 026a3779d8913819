// The code plane of one entry: its points, the cursor on it, and what the decoder makes of the place under it.

const STEPS = { fine: 1 / 400, medium: 1 / 80, coarse: 1 / 20 };
const SHARES = [0.5, 0.9, 0.99];

class Plane {
  constructor(entry, items, explorer) {
    this.entry = entry;
    this.items = items;
    this.explorer = explorer;
    this.base = entry.centre;
    this.selected = null;
    this.build();
    this.scales = new Scales(entry, 1, 1);
    this.scales.choose(...entry.start);
    this.place = this.scales.directions.map((direction) => dot(Array.from(entry.centre), direction));
    this.listen();
    new ResizeObserver(() => this.resize()).observe(this.area);
  }

  build() {
    const { entry, items } = this;
    this.points = element("canvas", { class: "points", "aria-hidden": "true" });
    this.over = element("canvas", { class: "over", "aria-hidden": "true" });
    this.knob = element("div", { class: "knob", "aria-hidden": "true" });
    this.area = element(
      "div",
      {
        class: "plane",
        tabindex: "0",
        role: "application",
        "aria-roledescription": "code plane",
        "aria-label": `${entry.name}: code plane of ${entry.count.toLocaleString("en")} test items`,
        "aria-describedby": "explorer-keys",
      },
      [this.points, this.over, this.knob],
    );
    this.decodedPicture = new Picture(items.layout, `decoded by ${entry.name}`);
    this.itemPicture = new Picture(items.layout, "the chosen item");
    this.againPicture = new Picture(items.layout, `its reconstruction by ${entry.name}`);
    this.where = element("span", { class: "mono" });
    this.near = element("span", { class: "near" });
    this.itemWords = element("figcaption");
    this.againWords = element("figcaption");
    const title = element("h3", { text: entry.name });
    const figures = [
      element("figure", { class: "decoded" }, [
        this.decodedPicture.canvas,
        element("figcaption", {}, [element("span", { text: "decoded at " }), this.where, this.near]),
      ]),
      element("div", { class: "pair" }, [
        element("figure", {}, [this.itemPicture.canvas, this.itemWords]),
        element("figure", {}, [this.againPicture.canvas, this.againWords]),
      ]),
    ];
    this.root = element("article", { class: "card plane-card", "aria-label": entry.name }, [
      element("header", {}, [title, element("p", { class: "note", text: entry.words }), this.axisChoice(), this.besideChoice()]),
      element("div", { class: `plane-row${items.layout.image ? "" : " of-numbers"}` }, [
        this.area,
        element("div", { class: "side" }, figures),
      ]),
    ]);
  }

  // the two directions that the plane shows, where there is a choice
  axisChoice() {
    const { entry } = this;
    if (entry.latentDim < 3 || entry.decoder.kind === "grid") return null;
    this.selects = ["across", "up"].map((name, axis) => {
      const options = entry.directions.map((direction, i) =>
        element("option", { value: String(i), text: direction.name, selected: i === entry.start[axis] }),
      );
      const select = element("select", {}, options);
      select.addEventListener("change", () => this.chooseAxes(axis));
      return element("label", { class: "axis-choice" }, [element("span", { text: name }), select]);
    });
    return element("div", { class: "axes" }, this.selects);
  }

  // what a code is decoded with, where that is more than the code: what belongs to the chosen item, or a value
  besideChoice() {
    const { beside, decoder } = this.entry;
    if (!beside || decoder.kind === "grid") return null;
    const options = [{ name: "those of the chosen item" }, ...beside.options].map(({ name }, i) =>
      element("option", { value: String(i - 1), text: name }),
    );
    this.givenSelect = element("select", {}, options);
    this.givenSelect.addEventListener("change", () => this.look());
    return element("div", { class: "axes" }, [
      element("label", { class: "axis-choice" }, [element("span", { text: "decoded with" }), this.givenSelect]),
    ]);
  }

  ownBeside(index) {
    const { beside } = this.entry;
    return beside ? beside.values.subarray(index * beside.size, (index + 1) * beside.size) : [];
  }

  givenBeside() {
    const chosen = Number(this.givenSelect?.value ?? -1);
    return chosen >= 0 ? this.entry.beside.options[chosen].row : this.ownBeside(this.selected ?? 0);
  }

  chooseAxes(changed) {
    const selects = this.selects.map((label) => label.querySelector("select"));
    const chosen = selects.map((select) => Number(select.value));
    // two directions that are nearly one span no plane: a component may be an axis
    const kept = this.entry.directions[chosen[changed]].vector;
    const isAlong = (i) => Math.abs(dot(this.entry.directions[i].vector, kept)) > 0.9;
    if (isAlong(chosen[1 - changed])) {
      chosen[1 - changed] = this.entry.directions.findIndex((_, i) => !isAlong(i));
      selects[1 - changed].value = String(chosen[1 - changed]);
    }
    this.scales.choose(...chosen);
    this.place = this.scales.directions.map((direction) => dot(Array.from(this.base), direction));
    this.draw();
    this.look();
  }

  listen() {
    const placed = (event) => {
      const box = this.area.getBoundingClientRect();
      return this.scales.placeAt(event.clientX - box.left, event.clientY - box.top);
    };
    let dragging = false;
    this.area.addEventListener("pointermove", (event) => {
      if (event.pointerType === "touch" && !dragging) return;
      this.dragged = dragging;
      this.moveTo(placed(event));
    });
    // a finger moves the cursor by its knob; anywhere else it scrolls the page as usual
    this.knob.addEventListener("pointerdown", (event) => {
      if (event.pointerType !== "touch") return;
      dragging = true;
      this.knob.setPointerCapture(event.pointerId);
    });
    for (const end of ["pointerup", "pointercancel"]) this.knob.addEventListener(end, () => (dragging = false));
    this.area.addEventListener("click", (event) => {
      if (this.dragged) {
        this.dragged = false;
        return;
      }
      this.moveTo(placed(event));
      const box = this.area.getBoundingClientRect();
      const found = this.nearest([event.clientX - box.left, event.clientY - box.top], 26);
      if (found !== null) this.explorer.select(found);
    });
    this.area.addEventListener("keydown", (event) => this.press(event));
    this.area.addEventListener("focus", () => this.drawOver());
    this.area.addEventListener("blur", () => this.drawOver());
  }

  press(event) {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (moves[event.key]) {
      const size = STEPS[this.explorer.step] * (event.shiftKey ? 5 : 1);
      const place = this.place.map((x, axis) => {
        const share = this.scales.share(x, axis) + size * moves[event.key][axis];
        return moves[event.key][axis] ? this.scales.coordinate(Math.min(1, Math.max(0, share)), axis) : x;
      });
      this.moveTo(place);
    } else if (event.key === "Enter" || event.key === " ") {
      this.explorer.select(this.nearest(this.scales.pixelAt(this.place), Infinity));
    } else if (event.key === "Home") {
      this.moveTo(this.scales.directions.map((direction) => dot(Array.from(this.base), direction)));
    } else {
      return;
    }
    event.preventDefault();
  }

  moveTo(place) {
    this.place = place;
    this.look();
  }

  // decode once a frame, however many events there were
  look() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.showPlace();
    });
  }

  showPlace() {
    if (!this.screen) return; // not laid out yet: once it is, `resize` looks again
    const code = this.scales.codeAt(this.place, this.base);
    const given = this.givenBeside();
    const values = this.entry.decoder.network.decode(code, given);
    this.decodedPicture.show(values, this.nearValues());
    this.where.textContent = codeInWords(code);
    const found = this.nearest(this.scales.pixelAt(this.place), Infinity);
    this.near.textContent = `nearest: ${this.items.nameOf(found)}`;
    this.drawOver();
    this.explorer.tell(this, code, found);
    this.root.dispatchEvent(new CustomEvent("decoded", { bubbles: true, detail: { code, values, given } }));
  }

  nearValues() {
    return this.items.layout.image ? null : this.selectedValues;
  }

  showItem(index) {
    const { entry, items } = this;
    this.selected = index;
    const { latentDim } = entry;
    const code = entry.codes.subarray(index * latentDim, (index + 1) * latentDim);
    const values = items.pictures.values(index);
    this.selectedValues = values;
    this.itemPicture.show(values);
    this.itemWords.replaceChildren(...items.wordsOf(index).map((text) => element("span", { class: "line", text })));
    if (latentDim > 2) this.base = code;
    if (entry.decoder.kind === "grid" && latentDim > 2) {
      this.againPicture.clear("no reconstruction in this page");
      this.againWords.textContent = "its reconstruction is not in this page";
    } else {
      const again = Float32Array.from(entry.decoder.network.decode(code, this.ownBeside(index)));
      this.againPicture.show(again, values);
      // a soft hyphen: the column is narrow on a phone
      const made = entry.decoder.kind === "grid" ? "nearest of the grid" : "recon\u00adstructed";
      const isCategories = Boolean(entry.decoder.categories);
      const wrong = values.reduce((count, x, i) => count + (Math.abs(x - again[i]) > 0.5 ? 1 : 0), 0);
      const told = isCategories ? `${wrong} of ${again.length} differ` : `off by ${inWords(difference(values, again), 3)}`;
      const away = element("span", { class: "near", text: told });
      // columns of a table have units of their own, and no difference in common
      this.againWords.replaceChildren(made, ...(this.items.layout.categories ? [] : [away]));
    }
    this.look();
  }

  nearest([x, y], within) {
    let best = null;
    let least = within * within;
    for (let n = 0; n < this.entry.count; n++) {
      const away = (this.screen[2 * n] - x) ** 2 + (this.screen[2 * n + 1] - y) ** 2;
      if (away < least) [best, least] = [n, away];
    }
    return best;
  }

  resize() {
    const { clientWidth, clientHeight } = this.area;
    if (!clientWidth) return;
    this.scales.width = clientWidth;
    this.scales.height = clientHeight;
    this.draw();
    for (const picture of [this.decodedPicture, this.itemPicture, this.againPicture]) picture.again();
    this.look();
  }

  draw() {
    const { entry, items, scales, explorer } = this;
    const ratio = window.devicePixelRatio || 1;
    const pen = sized(this.points, scales.width, scales.height);
    this.screen = new Float64Array(2 * entry.count);
    for (let n = 0; n < entry.count; n++) this.screen.set(scales.pixelOf(n), 2 * n);
    this.drawAxes(pen);
    const radius = entry.count > 4000 ? 2 : entry.count > 1000 ? 2.6 : 3.4;
    const marks = items.classes.map((_, label) => markOf(label, radius, ratio));
    const plain = markOf(0, radius, ratio, colourOf("--c0"));
    const wanted = explorer.wanted;
    pen.save();
    this.clip(pen);
    pen.setTransform(1, 0, 0, 1, 0, 0);
    for (const turn of wanted.size ? [false, true] : [true]) {
      for (const n of items.order) {
        const label = items.labels ? items.labels[n] : 0;
        const shown = !wanted.size || wanted.has(label);
        if (shown !== turn) continue;
        pen.globalAlpha = shown ? (entry.count > 4000 ? 0.7 : 0.85) : 0.08;
        const mark = items.labels ? marks[label] : plain;
        const half = mark.width / 2;
        pen.drawImage(mark, Math.round(this.screen[2 * n] * ratio - half), Math.round(this.screen[2 * n + 1] * ratio - half));
      }
    }
    pen.restore();
    if (explorer.contours) this.drawPrior(pen);
    if (explorer.names && items.labels && items.classes.length <= 30 && entry.latentDim > 1) this.drawNames(pen);
    this.drawOver();
  }

  drawAxes(pen) {
    const { scales } = this;
    pen.clearRect(0, 0, scales.width, scales.height);
    pen.font = `11px ${getComputedStyle(document.body).fontFamily}`;
    pen.strokeStyle = colourOf("--grid");
    pen.fillStyle = colourOf("--muted");
    pen.lineWidth = 1;
    pen.textAlign = "center";
    pen.textBaseline = "top";
    const [left, right, top, bottom] = [scales.across(0), scales.across(1), scales.up(1), scales.up(0)];
    pen.beginPath();
    for (const [share, words] of scales.ticks(0)) {
      const x = Math.round(scales.across(share)) + 0.5;
      pen.moveTo(x, top);
      pen.lineTo(x, bottom);
      if (share < 0.86) pen.fillText(words, x, bottom + 6);
    }
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    if (scales.chosen.length > 1) {
      for (const [share, words] of scales.ticks(1)) {
        const y = Math.round(scales.up(share)) + 0.5;
        pen.moveTo(left, y);
        pen.lineTo(right, y);
        if (share < 0.94) pen.fillText(words, left - 6, y);
      }
    }
    pen.stroke();
    pen.strokeStyle = colourOf("--rule");
    pen.strokeRect(left + 0.5, top + 0.5, right - left - 1, bottom - top - 1);
    pen.fillStyle = colourOf("--ink");
    pen.textBaseline = "top";
    pen.fillText(scales.nameOf(0), right, bottom + 6);
    if (scales.chosen.length > 1) {
      pen.textAlign = "left";
      pen.fillText(scales.nameOf(1), left + 6, top + 5);
    }
  }

  clip(pen) {
    const { scales } = this;
    pen.beginPath();
    pen.rect(scales.across(0), scales.up(1), scales.across(1) - scales.across(0), scales.up(0) - scales.up(1));
    pen.clip();
  }

  drawPrior(pen) {
    const { scales, entry } = this;
    const { prior } = entry;
    if (!prior) return;
    pen.save();
    this.clip(pen);
    pen.strokeStyle = colourOf("--ink");
    SHARES.forEach((share, i) => {
      pen.globalAlpha = 0.75;
      pen.lineWidth = 1.4;
      pen.setLineDash([[], [7, 4], [2, 3]][i]);
      pen.beginPath();
      for (const line of this.priorLines(share, i)) {
        line.forEach(([x, y], n) => (n ? pen.lineTo(x, y) : pen.moveTo(x, y)));
      }
      pen.stroke();
    });
    pen.restore();
  }

  // the lines that hold a share of p(z), in pixels; of one dimension, the density itself
  priorLines(share, i) {
    const { scales, entry } = this;
    const { prior } = entry;
    if (entry.latentDim === 1) return i ? [] : [this.priorCurve()];
    const onScreen = (line) => line.map((place) => scales.pixelAt(place));
    if (prior.kind === "normal") {
      const [u, v] = scales.directions;
      const times = (direction) => prior.covariance.map((row) => dot(row, direction));
      const covariance = [u, v].map((one) => [u, v].map((other) => dot(times(one), other)));
      return [onScreen(ellipse([dot(prior.mean, u), dot(prior.mean, v)], covariance, share))];
    }
    const pieces = levelLines(prior.grid, prior.levels[i]);
    const swapped = scales.chosen[0] !== entry.start[0];
    return pieces.map((piece) => onScreen(swapped ? piece.map(([a, b]) => [b, a]) : piece));
  }

  priorCurve() {
    const { count, low, high, values } = this.entry.prior.grid;
    const largest = Math.max(...values);
    return Array.from(values, (value, i) => {
      const x = low[0] + ((high[0] - low[0]) * i) / (count - 1);
      return [this.scales.across(this.scales.share(x, 0)), this.scales.up(0.02 + 0.9 * Math.exp(value - largest))];
    });
  }

  drawNames(pen) {
    const { items, scales, entry } = this;
    pen.font = `600 13px ${getComputedStyle(document.body).fontFamily}`;
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    pen.lineJoin = "round";
    items.classes.forEach((name, label) => {
      if (this.explorer.wanted.size && !this.explorer.wanted.has(label)) return;
      const members = items.members[label];
      if (!members.length) return;
      const middle = [0, 1].map((axis) => median(members.map((n) => scales.coordinates[axis][n])));
      const [x, y] = scales.pixelAt(middle);
      pen.strokeStyle = colourOf("--surface");
      pen.lineWidth = 4;
      pen.strokeText(name, x, y);
      pen.fillStyle = colourOf("--ink");
      pen.fillText(name, x, y);
    });
  }

  drawOver() {
    const { scales } = this;
    if (!this.screen) return;
    const pen = sized(this.over, scales.width, scales.height);
    const [x, y] = scales.pixelAt(this.place);
    const [ink, surface, accent] = ["--ink", "--surface", "--accent"].map(colourOf);
    if (this.selected !== null) {
      const [sx, sy] = [this.screen[2 * this.selected], this.screen[2 * this.selected + 1]];
      ring(pen, sx, sy, 7, surface, 5);
      ring(pen, sx, sy, 7, ink, 2);
    }
    const line = this.entry.latentDim === 1;
    pen.strokeStyle = accent;
    pen.lineWidth = 1;
    pen.globalAlpha = document.activeElement === this.area || line ? 0.9 : 0.45;
    pen.beginPath();
    pen.moveTo(x, scales.up(1));
    pen.lineTo(x, scales.up(0));
    if (!line) {
      pen.moveTo(scales.across(0), y);
      pen.lineTo(scales.across(1), y);
    }
    pen.stroke();
    pen.globalAlpha = 1;
    ring(pen, x, y, 9, surface, 5);
    ring(pen, x, y, 9, accent, 2.5);
    this.knob.style.setProperty("transform", `translate(${x}px, ${y}px) translate(-50%, -50%)`);
  }
}

function ring(pen, x, y, radius, colour, width) {
  pen.strokeStyle = colour;
  pen.lineWidth = width;
  pen.beginPath();
  pen.arc(x, y, radius, 0, 2 * Math.PI);
  pen.stroke();
}

function median(values) {
  const sorted = Float64Array.from(values).sort();
  return sorted[Math.floor(sorted.length / 2)];
}
