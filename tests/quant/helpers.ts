/** The numbers of golden vector 2: exactly representable, 201 levels, five scales. */
export function goldenWeights(): Float32Array<ArrayBuffer> {
  return Float32Array.from({ length: 19200 }, (_, i) => {
    return ((37 * i + 11) % 201 - 100) / 128 * 2 ** -(Math.floor(i / 64) % 5);
  });
}

/** Normal numbers by Box and Muller from a 32-bit xorshift. */
export function normals(count: number, seed = 1): Float32Array<ArrayBuffer> {
  let s = seed * 2654435761 >>> 0 || 1;
  const uniform = () => {
    s ^= s << 13, s >>>= 0, s ^= s >>> 17, s ^= s << 5, s >>>= 0;
    return (s + 0.5) / 2 ** 32;
  };
  return Float32Array.from({ length: count }, () => {
    return Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
  });
}
