// Decoders: a network that runs here, or a grid of codes that were decoded before.

// A program of steps; `decode` fills and gives the same array each time. Its input is a code and what is given beside
// it. Where it ends in probabilities of categories, what it gives is the number of the most probable one of each entry.
class NetworkDecoder {
  constructor({ steps, constants, categories = 0 }, latentDim, beside = 0) {
    const held = constants.map(({ shape, type, scale, data }) => {
      const numbers = numbersFrom(data, type);
      if (scale !== 1) for (let i = 0; i < numbers.length; i++) numbers[i] *= scale;
      return { shape, data: numbers };
    });
    this.code = new Float32Array(latentDim + beside);
    this.latentDim = latentDim;
    this.categories = categories;
    const values = [{ shape: [latentDim + beside], data: this.code }];
    this.runs = steps.map((step) => {
      const data = new Float32Array(step.shape.reduce((a, b) => a * b, 1));
      const inputs = step.of.map((place) => (place >= 0 ? values[place] : held[-1 - place]));
      values.push({ shape: step.shape, data });
      return OPERATIONS[step.do](inputs, data, step.shape, step.with);
    });
    this.result = values[values.length - 1].data;
    this.most = categories ? new Float32Array(this.result.length / categories) : null;
  }

  decode(code, given = []) {
    this.code.set(code);
    this.code.set(given, this.latentDim);
    for (const run of this.runs) run();
    return this.categories ? this.mostProbable() : this.result;
  }

  mostProbable() {
    for (let i = 0; i < this.most.length; i++) {
      let best = 0;
      for (let c = 1; c < this.categories; c++) {
        if (this.result[i * this.categories + c] > this.result[i * this.categories + best]) best = c;
      }
      this.most[i] = best;
    }
    return this.most;
  }
}

// The decoded item of the nearest code of a grid in a plane of two directions (or on a line).
class GridDecoder {
  constructor(grid, pictures) {
    this.grid = grid;
    this.pictures = pictures;
  }

  decode(code) {
    const { low, high, count, through, directions } = this.grid;
    let place = 0;
    for (let axis = directions.length - 1; axis >= 0; axis--) {
      let along = 0;
      code.forEach((x, i) => (along += (x - through[i]) * directions[axis][i]));
      const share = (along - low[axis]) / (high[axis] - low[axis]);
      const step = Math.min(count - 1, Math.max(0, Math.round(share * (count - 1))));
      place = place * count + step;
    }
    return this.pictures.values(place);
  }
}
