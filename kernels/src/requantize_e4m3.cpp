#include "e4m3.hpp"
#include "loops.hpp"
#include "weight_codes.hpp"

#include <algorithm>
#include <cstring>

namespace porting {
namespace {

// Some columns of a row: where they lie, and the scales of the blocks that they go through.
struct Group {
    const std::uint8_t* codes;
    std::size_t size;
    const float* scales;
    std::size_t first_run;  // columns up to the next block
    std::size_t block;

    // run(position, columns, scale)
    template <typename Run>
    inline void runs(Run run) const {
        const float* scale = scales;
        std::size_t end = first_run;
        for (std::size_t begin = 0; begin < size; begin = end, end += block) {
            run(begin, std::min(end, size) - begin, *scale++);
        }
    }
};

// Products round monotonically: the greatest code of a block has its greatest product. NaN is the greatest code.
inline std::uint32_t greatest_magnitude(const Group& group, std::int64_t* nan) {
    std::uint32_t greatest = 0;
    group.runs([&](std::size_t begin, std::size_t size, float scale) {
        const std::uint8_t* codes = group.codes + begin;
        std::uint8_t code = 0;
        for (std::size_t i = 0; i < size; ++i) {
            const std::uint8_t magnitude = codes[i] & 0x7f;
            code = magnitude > code ? magnitude : code;
        }
        if (code == 0x7f) {
            *nan += std::count_if(codes, codes + size, [](std::uint8_t c) { return (c & 0x7f) == 0x7f; });
        }
        const float product = decode(code) * scale;
        std::uint32_t bits;
        std::memcpy(&bits, &product, sizeof bits);
        greatest = std::max(greatest, bits & 0x7fffffffu);
    });
    return greatest;
}

inline void dequantize(const Group& group, float* out) {
    group.runs([&](std::size_t begin, std::size_t size, float scale) {
        const std::uint8_t* codes = group.codes + begin;
        for (std::size_t i = 0; i < size; ++i) out[begin + i] = decode(codes[i]) * scale;
    });
}

template <bool clips>
inline std::int64_t encode_group(const Group& group, float scale, float low, float high, std::int8_t* out) {
    std::int64_t saturated = 0;
    group.runs([&](std::size_t begin, std::size_t size, float block_scale) {
        const std::uint8_t* codes = group.codes + begin;
        const auto value = [=](std::size_t i) { return decode(codes[i]) * block_scale; };
        saturated += encode<clips>(value, size, scale, low, high, out + begin);
    });
    return saturated;
}

}  // namespace

PORTING_DISPATCH
Findings requantize_e4m3(const BlockScaled& m, std::size_t group_size, CodeRange range, std::int8_t* codes,
                         float* scales, float* scratch, std::int64_t* nan) {
    const float high = static_cast<float>(range.limit), low = -high - 1.0f;
    Findings found;
    for (std::size_t row = 0; row < m.rows; ++row) {
        const std::uint8_t* stored = m.codes + static_cast<std::ptrdiff_t>(row) * m.codes_pitch;
        const float* row_scales = m.scales + (m.first_row + row) / m.block_rows * m.scales_columns;
        for (std::size_t begin = 0; begin < m.columns; begin += group_size, codes += group_size, ++scales) {
            const std::size_t column = m.first_column + begin;
            const Group group{stored + begin, group_size, row_scales + column / m.block_columns,
                              m.block_columns - column % m.block_columns, m.block_columns};
            float scale = scale_of(greatest_magnitude(group, nan), range.divisor, &found);
            if (scale != scale) {
                std::memset(codes, 0, group_size);
            } else if (scratch != nullptr && scale > kLeastScale) {
                dequantize(group, scratch);
                scale = searched(scratch, group_size, scale, low, high, scratch + group_size);
                const auto value = [=](std::size_t i) { return scratch[i]; };
                found.saturated += encode<true>(value, group_size, scale, low, high, codes);
            } else {
                const bool clips = range.divisor > high;
                found.saturated += clips ? encode_group<true>(group, scale, low, high, codes)
                                         : encode_group<false>(group, scale, low, high, codes);
            }
            *scales = scale;
        }
    }
    return found;
}

}  // namespace porting
