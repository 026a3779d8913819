// Decoders: a network that runs here, or a grid of codes that were decoded before.

// A program of steps; `decode` fills and gives the same array each time.
class NetworkDecoder {
  constructor({ steps, constants }, latentDim) {
    const held = constants.map(({ shape, type, scale, data }) => {
      const numbers = numbersFrom(data, type);
      if (scale !== 1) for (let i = 0; i < numbers.length; i++) numbers[i] *= scale;
      return { shape, data: numbers };
    });
    this.code = new Float32Array(latentDim);
    const values = [{ shape: [latentDim], data: this.code }];
    this.runs = steps.map((step) => {
      const data = new Float32Array(step.shape.reduce((a, b) => a * b, 1));
      const inputs = step.of.map((place) => (place >= 0 ? values[place] : held[-1 - place]));
      values.push({ shape: step.shape, data });
      return OPERATIONS[step.do](inputs, data, step.shape, step.with);
    });
    this.result = values[values.length - 1].data;
  }

  decode(code) {
    this.code.set(code);
    for (const run of this.runs) run();
    return this.result;
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
