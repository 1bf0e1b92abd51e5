// Scale and codes of one group of a weight. Included into loops that are compiled for several instruction sets: all of
// it is inlined.
#pragma once

#include "loops.hpp"

#include <cstring>

namespace porting {

constexpr float kLeastScale = 1.17549435e-38f;  // 2**-126
constexpr int kSteps = 64;
constexpr std::size_t kLanes = 64;

// Below 2**22 the sum with 1.5 * 2**23 has no fraction bits left: the addition itself rounds half to even.
inline float half_even(float x) {
    constexpr float magic = 12582912.0f;
    return (x + magic) - magic;
}

inline float clamped(float x, float low, float high) {
    x = x < low ? low : x;
    return x > high ? high : x;
}

// As bits, magnitudes order like integers, infinity and NaN above all numbers.
inline std::uint32_t greatest_magnitude(const float* w, std::size_t size) {
    std::uint32_t greatest = 0;
    for (std::size_t i = 0; i < size; ++i) {
        std::uint32_t bits;
        std::memcpy(&bits, w + i, sizeof bits);
        bits &= 0x7fffffffu;
        greatest = bits > greatest ? bits : greatest;
    }
    return greatest;
}

inline float error_of(float relative, float multiplier, float low, float high) {
    const float t = relative * multiplier;
    const float rest = t - clamped(half_even(t), low, high);
    return rest * rest;
}

inline float square_error(const float* relative, std::size_t size, int step, float low, float high) {
    const float multiplier = static_cast<float>(kSteps) / static_cast<float>(step);
    float sums[kLanes] = {};
    std::size_t i = 0;
    for (; i + kLanes <= size; i += kLanes) {
        for (std::size_t lane = 0; lane < kLanes; ++lane) {
            sums[lane] += error_of(relative[i + lane], multiplier, low, high);
        }
    }
    for (std::size_t lane = 0; i + lane < size; ++lane) {
        sums[lane] += error_of(relative[i + lane], multiplier, low, high);
    }
    for (std::size_t half = kLanes / 2; half > 0; half /= 2) {
        for (std::size_t lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
    }
    const float share = static_cast<float>(step) / static_cast<float>(kSteps);
    return sums[0] * (share * share);
}

inline float searched(const float* w, std::size_t size, float base, float low, float high, float* relative) {
    for (std::size_t i = 0; i < size; ++i) relative[i] = w[i] / base;
    int best = kSteps;
    float least = square_error(relative, size, best, low, high);
    for (int step = kSteps - 4; step > 0; step -= 4) {
        const float error = square_error(relative, size, step, low, high);
        if (error < least) {
            least = error;
            best = step;
        }
    }
    const int middle = best;
    for (int step = middle + 3; step >= middle - 3; --step) {
        if (step > kSteps || step == middle) continue;
        const float error = square_error(relative, size, step, low, high);
        if (error < least || (error == least && step > best)) {
            least = error;
            best = step;
        }
    }
    const float scale = base * (static_cast<float>(best) / static_cast<float>(kSteps));
    return scale < kLeastScale ? kLeastScale : scale;
}

// A code of a weight, not clamped.
inline float rounded(float w, float scale) { return half_even(w / scale); }

inline std::int8_t code_of(float rounded) { return static_cast<std::int8_t>(static_cast<std::int32_t>(rounded)); }

// Codes of value(0), value(1), ... Returns how many were brought back to the limits. Where the greatest magnitude becomes
// the limit there are none (clips is false), and not to look for them saves a third of the time.
template <bool clips, typename Value>
inline std::int64_t encode(Value value, std::size_t size, float scale, float low, float high, std::int8_t* codes) {
    std::int32_t saturated = 0;
    for (std::size_t i = 0; i < size; ++i) {
        const float code = rounded(value(i), scale);
        if (!clips) {
            codes[i] = code_of(code);
            continue;
        }
        saturated += (code < low ? 1 : 0) + (code > high ? 1 : 0);
        codes[i] = code_of(clamped(code, low, high));
    }
    return saturated;
}

// The scale of the greatest magnitude, which comes as bits; NaN where that is no number.
inline float scale_of(std::uint32_t greatest, float divisor, Findings* found) {
    float scale;
    std::memcpy(&scale, &greatest, sizeof scale);
    if (greatest >= 0x7f800000u) {
        found->not_finite += 1;
        greatest = 0x7fc00000u;
        std::memcpy(&scale, &greatest, sizeof scale);
        return scale;
    }
    scale /= divisor;
    if (scale >= kLeastScale) return scale;
    found->zero += greatest == 0;
    found->tiny += greatest != 0;
    return kLeastScale;
}

}  // namespace porting
