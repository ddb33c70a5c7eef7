/**
 * The byte alphabet of byte-level BPE (GPT-2): printable Latin-1 characters stand for themselves, the other
 * bytes for the characters from U+0100 on, in order.
 * @module
 */

/** Character of the byte alphabet to the byte it stands for. */
export const BYTE_OF_CHAR: ReadonlyMap<string, number> = byteAlphabet();

function byteAlphabet(): Map<string, number> {
  const printable = (b: number) => (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
  const map = new Map<string, number>();
  let next = 0x100;
  for (let b = 0; b < 256; b++) map.set(String.fromCharCode(printable(b) ? b : next++), b);
  return map;
}
