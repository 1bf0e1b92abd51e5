// Codes of floats of few bits. Included into loops that are compiled for several instruction sets: all of it is inlined.
#pragma once

#include "weight_codes.hpp"

#include <cstdint>
#include <cstring>

namespace porting {

inline std::uint32_t bits_of(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

// The code without its sign of a magnitude up to the greatest value, half to even. Between the least normal number,
// 2**(1 - bias), and zero lie multiples of that over 2**mantissa: their code is how many. The carry of a mantissa that
// rounds up into the next exponent, and that of the greatest multiple into the least normal number, is the right code.
template <int mantissa, int bias>
inline std::uint32_t magnitude_code(float magnitude) {
    constexpr int dropped = 23 - mantissa;
    constexpr float least = bias == 1 ? 1.0f : 1.0f / static_cast<float>(1 << (bias - 1));
    constexpr float multiples = static_cast<float>(1 << (bias - 1 + mantissa));
    const std::uint32_t bits = bits_of(magnitude);
    const std::uint32_t rounded = (bits + ((1u << (dropped - 1)) - 1u) + ((bits >> dropped) & 1u)) >> dropped;
    const std::uint32_t normal = rounded - ((127u - static_cast<std::uint32_t>(bias)) << mantissa);
    const std::uint32_t subnormal = static_cast<std::uint32_t>(static_cast<std::int32_t>(half_even(magnitude * multiples)));
    return magnitude < least ? subnormal : normal;
}

struct E4m3 {
    static constexpr float greatest = 448.0f;
    static constexpr std::uint32_t greatest_exponent = 8;
    static constexpr int sign = 7;
    static std::uint32_t code(float magnitude) { return magnitude_code<3, 7>(magnitude); }
};

struct E2m1 {
    static constexpr float greatest = 6.0f;
    static constexpr std::uint32_t greatest_exponent = 2;
    static constexpr int sign = 3;
    static std::uint32_t code(float magnitude) { return magnitude_code<1, 1>(magnitude); }
};

// A finite value, saturated. Adds to saturated whether it was too great.
template <typename Float>
inline std::uint8_t float_code(float value, std::int32_t* saturated) {
    const float magnitude = value < 0.0f ? -value : value;
    *saturated += magnitude > Float::greatest ? 1 : 0;
    const float kept = magnitude > Float::greatest ? Float::greatest : magnitude;
    const std::uint32_t sign = bits_of(value) >> 31;
    return static_cast<std::uint8_t>(Float::code(kept) | (sign << Float::sign));
}

}  // namespace porting
