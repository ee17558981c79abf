"use strict";

// What the page computes: a case unpacked, its mask's outline, maps upsampled and added.

async function unpack(packed) {
  const zipped = Uint8Array.from(atob(packed.values), (c) => c.charCodeAt(0));
  const stream = new Blob([zipped]).stream().pipeThrough(new DecompressionStream("deflate"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  for (let i = 1; i < bytes.length; i++) bytes[i] += bytes[i - 1]; // steps between neighbours are stored
  let offset = 0;
  const take = ({ size: [rows, columns], low, high }) =>
    low.map((least, k) => {
      const levels = bytes.subarray(offset, (offset += rows * columns));
      const step = (high[k] - least) / 255;
      return { rows, columns, values: Float32Array.from(levels, (level) => least + step * level) };
    });
  const layers = packed.layers.map(take); // in the order they were packed in
  const methods = packed.methods.map(take);
  return { ...packed, layers, methods, outline: packed.mask ? edges(bytes, offset, packed.size) : "" };
}

// The border between pixels inside and outside, as an SVG path; the mask is a bit for each pixel.
function edges(bytes, offset, [height, width]) {
  const inside = (x, y) => {
    const bit = y * width + x;
    return x >= 0 && y >= 0 && x < width && y < height && (bytes[offset + (bit >> 3)] >> (7 - (bit & 7))) & 1;
  };
  let path = "";
  for (let y = 0; y <= height; y++) {
    for (let x = 0; x <= width; x++) {
      if (inside(x, y) != inside(x, y - 1)) path += `M${x} ${y}h1`;
      if (inside(x, y) != inside(x - 1, y)) path += `M${x} ${y}v1`;
    }
  }
  return path;
}

// Bilinear without aligned corners, as torch.nn.functional.interpolate: cells below and above each pixel.
function neighbours(cells, pixels) {
  return Array.from({ length: pixels }, (_, i) => {
    const at = Math.max(((i + 0.5) * cells) / pixels - 0.5, 0);
    const below = Math.floor(at);
    return [below, Math.min(below + 1, cells - 1), at - below];
  });
}

function sum(maps, height, width) {
  const total = new Float32Array(height * width);
  for (const { rows, columns, values } of maps) {
    const across = neighbours(columns, width);
    neighbours(rows, height).forEach(([top, bottom, v], y) => {
      across.forEach(([left, right, u], x) => {
        const upper = values[top * columns + left] * (1 - u) + values[top * columns + right] * u;
        const lower = values[bottom * columns + left] * (1 - u) + values[bottom * columns + right] * u;
        total[y * width + x] += upper * (1 - v) + lower * v;
      });
    });
  }
  return total;
}

const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;

function extent(values) {
  return [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
}

/** The largest absolute value; 1 of a map that is zero everywhere. */
function largest(values) {
  const [low, high] = extent(values);
  return Math.max(-low, high) || 1;
}
