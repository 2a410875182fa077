// The checksum of a RankedSamplesChunk as proto/eif/influence/v1/results.proto words it, from nothing but that text.

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  return crc >>> 0;
});

function crc32c(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = (crc >>> 8) ^ TABLE[(crc ^ byte) & 0xff];
  return (crc ^ 0xffffffff) >>> 0;
}

const text = (values) => values.map((value) => Buffer.from(`${value}\0`, 'utf8'));

function doubles(values) {
  const buffer = Buffer.alloc(8 * values.length);
  values.forEach((value, place) => buffer.writeDoubleLE(value, 8 * place));
  return [buffer];
}

function int64(value) {
  const buffer = Buffer.alloc(8);
  buffer.writeBigInt64LE(BigInt(value));
  return [buffer];
}

export function chunkChecksum(chunk) {
  return crc32c(
    Buffer.concat([
      ...text([chunk.query_id]),
      ...int64(chunk.first_rank),
      ...text(chunk.sample_ids),
      ...doubles(chunk.scores),
      ...text(chunk.labels),
      ...text(chunk.suggested_labels),
      ...doubles(chunk.suggested_probabilities),
    ]),
  );
}
