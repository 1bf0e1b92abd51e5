#include "e4m3.hpp"
#include "loops.hpp"

#include <algorithm>

namespace porting {
namespace {

inline void store(float value, float* out) { *out = value; }

// Half to even: the carry of the addition is the rounding. A NaN could carry into the sign, so it is put in afterwards.
inline void store(float value, std::uint16_t* out) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    *out = static_cast<std::uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}

template <typename Out>
inline std::int64_t run(const std::uint8_t* codes, float scale, Out* out, std::size_t size) {
    std::uint8_t greatest = 0;
    for (std::size_t i = 0; i < size; ++i) {
        const std::uint8_t magnitude = codes[i] & 0x7f;
        greatest = magnitude > greatest ? magnitude : greatest;
    }
    for (std::size_t i = 0; i < size; ++i) store(decode(codes[i]) * scale, out + i);
    if (greatest < 0x7f) return 0;
    return std::count_if(codes, codes + size, [](std::uint8_t code) { return (code & 0x7f) == 0x7f; });
}

template <typename Out>
inline std::int64_t blocks(const BlockScaled& m, Out* out, std::ptrdiff_t pitch) {
    std::int64_t nan = 0;
    for (std::size_t row = 0; row < m.rows; ++row) {
        const std::uint8_t* codes = m.codes + static_cast<std::ptrdiff_t>(row) * m.codes_pitch;
        const float* scale = m.scales + (m.first_row + row) / m.block_rows * m.scales_columns;
        scale += m.first_column / m.block_columns;
        std::size_t end = m.block_columns - m.first_column % m.block_columns;
        for (std::size_t begin = 0; begin < m.columns; begin = end, end += m.block_columns) {
            nan += run(codes + begin, *scale++, out + begin, std::min(end, m.columns) - begin);
        }
        out += pitch;
    }
    return nan;
}

}  // namespace

PORTING_DISPATCH
std::int64_t dequantize_e4m3(const BlockScaled& m, float* out, std::ptrdiff_t pitch) { return blocks(m, out, pitch); }

PORTING_DISPATCH
std::int64_t dequantize_e4m3_bfloat16(const BlockScaled& m, std::uint16_t* out, std::ptrdiff_t pitch) {
    return blocks(m, out, pitch);
}

}  // namespace porting
