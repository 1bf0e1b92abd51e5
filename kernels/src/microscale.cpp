#include "float_codes.hpp"
#include "loops.hpp"

namespace porting {
namespace {

template <typename Float>
inline Findings rows(const WeightRows& m, std::uint8_t* codes, std::uint8_t* exponents) {
    Findings found;
    for (std::size_t row = 0; row < m.rows; ++row) {
        const float* w = m.values + static_cast<std::ptrdiff_t>(row) * m.pitch;
        for (std::size_t begin = 0; begin < m.columns; begin += kMicroscaled, codes += kMicroscaled, ++exponents) {
            const std::uint32_t greatest = greatest_magnitude(w + begin, kMicroscaled);
            if (greatest >= 0x7f800000u) {
                found.not_finite += 1;
                *exponents = 255;
                std::memset(codes, 0, kMicroscaled);
                continue;
            }
            // The biases of float32 and of the scale are the same.
            const std::uint32_t exponent = greatest >> 23;
            const bool tiny = exponent <= Float::greatest_exponent;
            found.zero += greatest == 0;
            found.tiny += tiny && greatest != 0;
            const std::uint32_t byte = tiny ? 1 : exponent - Float::greatest_exponent;
            const std::uint32_t inverse = (254u - byte) << 23;  // 2**(127 - byte): to multiply by it is to divide
            float multiplier;
            std::memcpy(&multiplier, &inverse, sizeof multiplier);
            std::int32_t saturated = 0;
            for (std::size_t i = 0; i < kMicroscaled; ++i) {
                codes[i] = float_code<Float>(w[begin + i] * multiplier, &saturated);
            }
            found.saturated += saturated;
            *exponents = static_cast<std::uint8_t>(byte);
        }
    }
    return found;
}

}  // namespace

PORTING_DISPATCH
Findings microscale_e4m3(const WeightRows& m, std::uint8_t* codes, std::uint8_t* exponents) {
    return rows<E4m3>(m, codes, exponents);
}

PORTING_DISPATCH
Findings microscale_e2m1(const WeightRows& m, std::uint8_t* codes, std::uint8_t* exponents) {
    return rows<E2m1>(m, codes, exponents);
}

}  // namespace porting
