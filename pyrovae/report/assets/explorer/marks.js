// Marks of the classes: ten colours that colour-blind readers tell apart, and ten shapes, so that colour is never alone.

const SHAPES = [
  (p, r) => p.arc(0, 0, r, 0, 2 * Math.PI),
  (p, r) => polygon(p, [0, -1.25, 1.1, 0.75, -1.1, 0.75], r),
  (p, r) => p.rect(-0.88 * r, -0.88 * r, 1.76 * r, 1.76 * r),
  (p, r) => polygon(p, [0, -1.3, 1, 0, 0, 1.3, -1, 0], r),
  (p, r) => polygon(p, [0, 1.25, 1.1, -0.75, -1.1, -0.75], r),
  (p, r) => cross(p, r, 0),
  (p, r) => cross(p, r, Math.PI / 4),
  (p, r) => star(p, r),
  (p, r) => polygon(p, [1.25, 0, -0.75, 1.1, -0.75, -1.1], r),
  (p, r) => polygon(p, [-1.25, 0, 0.75, 1.1, 0.75, -1.1], r),
];

function polygon(path, corners, r) {
  for (let i = 0; i < corners.length; i += 2) path.lineTo(corners[i] * r, corners[i + 1] * r);
  path.closePath();
}

function cross(path, r, turn) {
  const corners = [0.38, 0.38, 1.2, 0.38, 1.2, -0.38, 0.38, -0.38];
  const points = [];
  for (let quarter = 0; quarter < 4; quarter++) {
    for (let i = 0; i < corners.length; i += 2) {
      const angle = turn - (quarter * Math.PI) / 2;
      const [x, y] = [corners[i], corners[i + 1]];
      points.push(x * Math.cos(angle) - y * Math.sin(angle), x * Math.sin(angle) + y * Math.cos(angle));
    }
  }
  polygon(path, points, r);
}

function star(path, r) {
  const points = [];
  for (let i = 0; i < 10; i++) {
    const size = i % 2 ? 0.55 : 1.35;
    points.push(size * Math.sin((i * Math.PI) / 5), -size * Math.cos((i * Math.PI) / 5));
  }
  polygon(path, points, r);
}

function colourOf(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// A canvas with one class's mark, to be drawn many times.
function markOf(label, radius, ratio, colour = colourOf(`--c${label % 10}`)) {
  const half = Math.ceil((radius * 1.45 + 1) * ratio);
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 2 * half;
  const pen = canvas.getContext("2d");
  pen.translate(half, half);
  pen.scale(ratio, ratio);
  pen.beginPath();
  SHAPES[(label + Math.floor(label / 10)) % 10](pen, radius);
  pen.fillStyle = colour;
  pen.fill();
  return canvas;
}
