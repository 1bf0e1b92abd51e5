#include "loops.hpp"

namespace porting {
namespace {

// Clamping first equals clamping last, because the limits are integers and rounding is monotonic. The comparisons are
// ordered so that the compiler turns them into blends, and NaN is replaced before they see it.
inline float clamped(float x, float scale, float offset) {
    const float product = x * scale;
    float t = product + offset;
    t = t == t ? t : 0.0f;
    t = t < -128.0f ? -128.0f : t;
    return t > 127.0f ? 127.0f : t;
}

}  // namespace

PORTING_DISPATCH
void half_even(const float* x, std::int8_t* codes, std::size_t size, float scale, float offset) {
    // Below 2**22 the sum with 1.5 * 2**23 has no fraction bits left: the addition itself rounds half to even.
    constexpr float magic = 12582912.0f;
    for (std::size_t i = 0; i < size; ++i) {
        const float shifted = clamped(x[i], scale, offset) + magic;
        codes[i] = static_cast<std::int8_t>(static_cast<std::int32_t>(shifted - magic));
    }
}

PORTING_DISPATCH
void half_away(const float* x, std::int8_t* codes, std::size_t size, float scale, float offset) {
    for (std::size_t i = 0; i < size; ++i) {
        const float t = clamped(x[i], scale, offset);
        const std::int32_t whole = static_cast<std::int32_t>(t);
        const float rest = t - static_cast<float>(whole);
        codes[i] = static_cast<std::int8_t>(whole + (rest >= 0.5f ? 1 : 0) - (rest <= -0.5f ? 1 : 0));
    }
}

PORTING_DISPATCH
void half_up(const float* x, std::int8_t* codes, std::size_t size, float scale, float offset) {
    for (std::size_t i = 0; i < size; ++i) {
        const float t = clamped(x[i], scale, offset);
        std::int32_t whole = static_cast<std::int32_t>(t);
        whole -= t < static_cast<float>(whole) ? 1 : 0;
        const float rest = t - static_cast<float>(whole);
        codes[i] = static_cast<std::int8_t>(whole + (rest >= 0.5f ? 1 : 0));
    }
}

void quantize_int8(const float* x, std::int8_t* codes, std::size_t size, float scale, float offset, Rounding rounding) {
    switch (rounding) {
        case Rounding::half_even: return half_even(x, codes, size, scale, offset);
        case Rounding::half_away: return half_away(x, codes, size, scale, offset);
        case Rounding::half_up: return half_up(x, codes, size, scale, offset);
    }
}

}  // namespace porting
