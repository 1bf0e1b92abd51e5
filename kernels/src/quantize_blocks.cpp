#include "float_codes.hpp"
#include "loops.hpp"

#include <algorithm>

namespace porting {
namespace {

struct Int8Codes {
    static constexpr float limit = 127.0f;
    static std::uint8_t code(float w, float scale) {
        return static_cast<std::uint8_t>(code_of(clamped(rounded(w, scale), -limit, limit)));
    }
};

struct E4m3Codes {
    static constexpr float limit = E4m3::greatest;
    static std::uint8_t code(float w, float scale) {
        std::int32_t saturated = 0;  // The greatest of a block is the limit, give or take a rounding.
        return float_code<E4m3>(w / scale, &saturated);
    }
};

// Rows of one row of blocks.
template <typename Codes>
inline void block_row(const WeightRows& m, std::size_t first, std::size_t last, std::uint8_t* codes, float* scales,
                      std::uint32_t* greatest, Findings* found) {
    const std::size_t blocks = (m.columns + m.group - 1) / m.group;
    std::fill(greatest, greatest + blocks, 0u);
    const auto width = [&](std::size_t block) { return std::min(m.group, m.columns - block * m.group); };
    for (std::size_t row = first; row < last; ++row) {
        const float* w = m.values + static_cast<std::ptrdiff_t>(row) * m.pitch;
        for (std::size_t block = 0; block < blocks; ++block) {
            greatest[block] = std::max(greatest[block], greatest_magnitude(w + block * m.group, width(block)));
        }
    }
    for (std::size_t block = 0; block < blocks; ++block) scales[block] = scale_of(greatest[block], Codes::limit, found);
    for (std::size_t row = first; row < last; ++row) {
        const float* w = m.values + static_cast<std::ptrdiff_t>(row) * m.pitch;
        std::uint8_t* out = codes + row * m.columns;
        for (std::size_t block = 0; block < blocks; ++block) {
            const std::size_t begin = block * m.group, size = width(block);
            const float scale = scales[block];
            if (scale != scale) {
                std::memset(out + begin, 0, size);
                continue;
            }
            for (std::size_t i = 0; i < size; ++i) out[begin + i] = Codes::code(w[begin + i], scale);
        }
    }
}

template <typename Codes>
inline Findings all(const WeightRows& m, std::size_t height, std::uint8_t* codes, float* scales, std::uint32_t* scratch) {
    const std::size_t blocks = (m.columns + m.group - 1) / m.group;
    Findings found;
    for (std::size_t row = 0; row < m.rows; row += height, scales += blocks) {
        block_row<Codes>(m, row, std::min(row + height, m.rows), codes, scales, scratch, &found);
    }
    return found;
}

}  // namespace

PORTING_DISPATCH
Findings quantize_blocks_int8(const WeightRows& m, std::size_t height, std::uint8_t* codes, float* scales,
                              std::uint32_t* scratch) {
    return all<Int8Codes>(m, height, codes, scales, scratch);
}

PORTING_DISPATCH
Findings quantize_blocks_e4m3(const WeightRows& m, std::size_t height, std::uint8_t* codes, float* scales,
                              std::uint32_t* scratch) {
    return all<E4m3Codes>(m, height, codes, scales, scratch);
}

}  // namespace porting
