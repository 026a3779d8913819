// The operations of a decoder. Each takes its inputs, {shape, data}, and the array to fill, and gives a function that
// fills it. Sums are taken in float64, and what a step gives is kept in float32.

const OPERATIONS = {
  map(inputs, out, shape, { f, numbers }) {
    const apply = FUNCTIONS[f](...numbers);
    const count = out.length;
    const [a, b, c] = inputs.map((input) => input.data);
    const [i, j, k] = inputs.map((input) => placesOf(input.shape, shape));
    if (inputs.length === 1) {
      return () => {
        for (let n = 0; n < count; n++) out[n] = apply(a[i[n]]);
      };
    }
    if (inputs.length === 2) {
      return () => {
        for (let n = 0; n < count; n++) out[n] = apply(a[i[n]], b[j[n]]);
      };
    }
    return () => {
      for (let n = 0; n < count; n++) out[n] = apply(a[i[n]], b[j[n]], c[k[n]]);
    };
  },

  linear([x, weight, bias], out) {
    const width = x.data.length;
    return () => {
      for (let row = 0, at = 0; row < out.length; row++) {
        let sum = 0;
        for (let i = 0; i < width; i++, at++) sum += x.data[i] * weight.data[at];
        out[row] = sum + bias.data[row];
      }
    };
  },

  convolution([x, weight, bias], out, [outputs, height, width], options) {
    const [inputs, rows, columns] = x.shape;
    const [taps, steps] = [weight.shape.slice(2), options.stride];
    const perGroup = { in: inputs / options.groups, out: outputs / options.groups };
    const sums = new Float64Array(height * width);
    const places = tapsOf(options, taps, [rows, columns], [height, width]);
    return () => {
      for (let o = 0; o < outputs; o++) {
        sums.fill(bias.data[o]);
        const group = Math.floor(o / perGroup.out);
        for (let c = 0; c < perGroup.in; c++) {
          const from = (group * perGroup.in + c) * rows * columns;
          const kernel = options.transposed
            ? (group * perGroup.in + c) * perGroup.out + (o - group * perGroup.out)
            : o * perGroup.in + c;
          for (const tap of places) {
            const w = weight.data[kernel * taps[0] * taps[1] + tap.index];
            for (let r = 0; r < tap.rows; r++) {
              let source = from + (tap.sourceRow + r * tap.sourceRowStep) * columns + tap.sourceColumn;
              let target = (tap.targetRow + r * tap.targetRowStep) * width + tap.targetColumn;
              for (let n = 0; n < tap.columns; n++) {
                sums[target] += w * x.data[source];
                source += tap.sourceColumnStep;
                target += tap.targetColumnStep;
              }
            }
          }
        }
        out.set(sums, o * height * width);
      }
    };
  },

  normalize([x], out, shape, { size, epsilon }) {
    return () => {
      for (let start = 0; start < out.length; start += size) {
        let mean = 0;
        let square = 0;
        for (let i = start; i < start + size; i++) mean += x.data[i] / size;
        for (let i = start; i < start + size; i++) square += (x.data[i] - mean) ** 2 / size;
        const scale = 1 / Math.sqrt(square + epsilon);
        for (let i = start; i < start + size; i++) out[i] = (x.data[i] - mean) * scale;
      }
    };
  },

  reshape([x], out) {
    return () => out.set(x.data);
  },

  gather([x, index], out) {
    return () => {
      for (let i = 0; i < out.length; i++) out[i] = x.data[index.data[i]];
    };
  },

  concatenate(inputs, out) {
    return () => {
      let start = 0;
      for (const input of inputs) {
        out.set(input.data, start);
        start += input.data.length;
      }
    };
  },

  resize([x, rows, columns], out, [channels, height, width]) {
    const [, small, narrow] = x.shape;
    return () => {
      for (let c = 0, at = 0; c < channels; c++) {
        for (let r = 0; r < height; r++) {
          for (let n = 0; n < width; n++, at++) {
            let sum = 0;
            for (let i = 0; i < small; i++) {
              const up = rows.data[r * small + i];
              if (up === 0) continue;
              for (let j = 0; j < narrow; j++) {
                sum += up * columns.data[n * narrow + j] * x.data[(c * small + i) * narrow + j];
              }
            }
            out[at] = sum;
          }
        }
      }
    };
  },

  sum([x], out, shape, { axes: [outer, size, inner] }) {
    return () => {
      for (let a = 0; a < outer; a++) {
        for (let b = 0; b < inner; b++) {
          let total = 0;
          for (let i = 0; i < size; i++) total += x.data[(a * size + i) * inner + b];
          out[a * inner + b] = total;
        }
      }
    };
  },

  softmax: (inputs, out, shape, { axes }) => softmaxOf(inputs[0], out, axes, (x, log) => Math.exp(x - log)),
  log_softmax: (inputs, out, shape, { axes }) => softmaxOf(inputs[0], out, axes, (x, log) => x - log),
};

// where each tap of a kernel reads and adds, without what falls outside
function tapsOf({ transposed, stride, padding, dilation }, taps, source, target) {
  const along = (axis, tap) => {
    const shift = tap * dilation[axis] - padding[axis];
    const [walked, bound] = transposed ? [source[axis], target[axis]] : [target[axis], source[axis]];
    const first = Math.max(0, Math.ceil(-shift / stride[axis]));
    const last = Math.min(walked - 1, Math.floor((bound - 1 - shift) / stride[axis]));
    return { first, count: Math.max(0, last - first + 1), place: first * stride[axis] + shift };
  };
  const places = [];
  for (let i = 0; i < taps[0]; i++) {
    for (let j = 0; j < taps[1]; j++) {
      const [row, column] = [along(0, i), along(1, j)];
      const near = { row: row.first, rowStep: 1, column: column.first, columnStep: 1 };
      const far = { row: row.place, rowStep: stride[0], column: column.place, columnStep: stride[1] };
      const [from, to] = transposed ? [near, far] : [far, near];
      places.push({
        index: i * taps[1] + j,
        rows: row.count,
        columns: column.count,
        sourceRow: from.row,
        sourceRowStep: from.rowStep,
        sourceColumn: from.column,
        sourceColumnStep: from.columnStep,
        targetRow: to.row,
        targetRowStep: to.rowStep,
        targetColumn: to.column,
        targetColumnStep: to.columnStep,
      });
    }
  }
  return places.filter((tap) => tap.rows && tap.columns);
}

function softmaxOf(x, out, [outer, size, inner], finish) {
  return () => {
    for (let a = 0; a < outer; a++) {
      for (let b = 0; b < inner; b++) {
        const at = (i) => (a * size + i) * inner + b;
        let largest = -Infinity;
        for (let i = 0; i < size; i++) largest = Math.max(largest, x.data[at(i)]);
        let sum = 0;
        for (let i = 0; i < size; i++) sum += Math.exp(x.data[at(i)] - largest);
        const log = largest + Math.log(sum);
        for (let i = 0; i < size; i++) out[at(i)] = finish(x.data[at(i)], log);
      }
    }
  };
}
