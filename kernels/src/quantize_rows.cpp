#include "loops.hpp"
#include "weight_codes.hpp"

#include <cstring>

namespace porting {

PORTING_DISPATCH
Findings quantize_rows(const WeightRows& m, CodeRange range, std::int8_t* codes, float* scales, float* scratch) {
    const float high = static_cast<float>(range.limit), low = -high - 1.0f;
    const bool clips = scratch != nullptr || range.divisor > high;
    Findings found;
    for (std::size_t row = 0; row < m.rows; ++row) {
        const float* w = m.values + static_cast<std::ptrdiff_t>(row) * m.pitch;
        for (std::size_t begin = 0; begin < m.columns; begin += m.group, codes += m.group, ++scales) {
            float scale = scale_of(greatest_magnitude(w + begin, m.group), range.divisor, &found);
            if (scale != scale) {
                std::memset(codes, 0, m.group);
            } else {
                if (scratch != nullptr && scale > kLeastScale) {
                    scale = searched(w + begin, m.group, scale, low, high, scratch);
                }
                const auto value = [=](std::size_t i) { return w[begin + i]; };
                found.saturated += clips ? encode<true>(value, m.group, scale, low, high, codes)
                                         : encode<false>(value, m.group, scale, low, high, codes);
            }
            *scales = scale;
        }
    }
    return found;
}

}  // namespace porting
