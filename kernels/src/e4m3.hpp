// Values of e4m3 codes. Included into loops that are compiled for several instruction sets: all of it is inlined.
#pragma once

#include <cstdint>
#include <cstring>

namespace porting {

inline float float_of(std::uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// Exponent and mantissa go to where float32 has them, 120 being the difference of the biases. A code without exponent
// is 2**-6 times its fraction: as a number in [2**-6, 2**-5) less 2**-6 it is exact, and never a float32 subnormal,
// which some processors take a hundred cycles for.
inline float decode(std::uint8_t code) {
    const std::uint32_t magnitude = code & 0x7fu;
    const std::uint32_t sign = (code & 0x80u) << 24;
    const float normal = float_of((magnitude << 20) + (120u << 23));
    const float subnormal = float_of((magnitude << 20) + (121u << 23)) - 0.015625f;
    const float finite = magnitude < 8u ? subnormal : normal;
    const float value = magnitude == 0x7fu ? float_of(0x7fc00000u) : finite;
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return float_of(bits | sign);
}

}  // namespace porting
