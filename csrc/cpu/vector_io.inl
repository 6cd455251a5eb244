// Rows of tensors to and from packed buffers, 16-bit values widened: included after vector_math.inl, with its macros.

AI void widen(REAL* to, const uint16_t* from, int64_t n, bool brain) {
  for (int64_t i = 0; i < n; ++i) {
    // A half's exponent and mantissa, shifted to a float's bits, lack 112 in the exponent; all ones stay all ones. A
    // subnormal half would become a subnormal float: it gets a 1 before its mantissa, which is then subtracted.
    const uint32_t bits = from[i], exponent = bits & 0x7c00;
    uint32_t wide = bits << 16;
    float value;
    if (!brain) {
      const uint32_t subnormal = exponent == 0, not_finite = exponent == 0x7c00, two_to_minus_14 = 113u << 23;
      const uint32_t rebased = ((bits & 0x7fff) << 13) + ((112 + subnormal + 112 * not_finite) << 23);
      const uint32_t extra = subnormal * two_to_minus_14;
      float one;
      std::memcpy(&value, &rebased, 4);
      std::memcpy(&one, &extra, 4);
      value -= one;
      std::memcpy(&wide, &value, 4);
      wide |= (bits & 0x8000) << 16;
    }
    std::memcpy(&value, &wide, 4);
    to[i] = value;
  }
}

// Read `count` values from `offset` on of a tensor of inputs.
AI void read_row(REAL* to, const void* from, int64_t offset, int64_t count, Input input) {
  if (input == Input::same) {
    const REAL* p = (const REAL*)from + offset;
    int64_t i = 0;
    for (; i + 4 <= count; i += 4) *(V4*)(to + i) = *(const V4*)(p + i);
    for (; i < count; ++i) to[i] = p[i];
  } else {
    widen(to, (const uint16_t*)from + offset, count, input == Input::bfloat16);
  }
}

template <int WIDTH>
AI void read_channels(REAL* to, const void* from, int64_t offset, int lanes, Input input) {
  if (lanes == WIDTH && input == Input::same) {
    for (int v = 0; v < WIDTH; v += LANES) store(to + v, load((const REAL*)from + offset + v));
  } else {
    read_row(to, from, offset, lanes, input);
    for (int c = lanes; c < WIDTH; ++c) to[c] = 0;
  }
}

// Add to a job's channels of a row; with `fresh`, write them.
template <int WIDTH>
AI void put_channels(REAL* to, const REAL* from, int lanes, bool fresh) {
  if (lanes == WIDTH && fresh) {
    for (int v = 0; v < WIDTH; v += LANES) store(to + v, load(from + v));
  } else if (lanes == WIDTH) {
    for (int v = 0; v < WIDTH; v += LANES) store(to + v, load(to + v) + load(from + v));
  } else {
    for (int c = 0; c < lanes; ++c) to[c] = fresh ? from[c] : to[c] + from[c];
  }
}

AI void prefetch(const void* row, int bytes) {
  for (int c = 0; c < bytes; c += 64) __builtin_prefetch((const char*)row + c);
}
