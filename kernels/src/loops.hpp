// The loops behind porting_kernels/native.py. Plain C++, no Python; each is defined by the torch function named there.
#pragma once

#include <cstddef>
#include <cstdint>

namespace porting {

// The loops are compiled for several instruction sets and picked at load time where compiler and libc can do that.
#if defined(PORTING_TARGET_CLONES)
#define PORTING_DISPATCH __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define PORTING_DISPATCH
#endif

enum class Rounding { half_even = 0, half_away = 1, half_up = 2 };

// codes[i] = saturate(round(x[i] * scale + offset)); product and sum are each rounded to float32; NaN becomes 0.
void quantize_int8(const float* x, std::int8_t* codes, std::size_t size, float scale, float offset, Rounding rounding);

constexpr int kBins = 2048;
constexpr int kLeastExponent = -100;

struct Histogram {
    int exponent = kLeastExponent;
    std::int64_t zeros = 0;
    float low = 0;
    float high = 0;
    std::ptrdiff_t non_finite = -1;  // position of the first NaN or infinity; the other fields are then meaningless
};

// Adds to counts (2 * kBins, zeroed by the caller): values >= 0 first, then the magnitudes of values < 0.
Histogram dyadic_histogram(const float* x, std::size_t size, std::int64_t* counts);

// Part of a matrix of e4m3 codes, from first_row and first_column on, and the scales of all its blocks.
struct BlockScaled {
    const std::uint8_t* codes;
    std::size_t rows;
    std::size_t columns;
    std::ptrdiff_t codes_pitch;  // elements from a row to the next
    const float* scales;
    std::size_t scales_columns;
    std::size_t block_rows;
    std::size_t block_columns;
    std::size_t first_row;
    std::size_t first_column;
};

// out[row * pitch + column] = code * scale, rounded to float32, then as out. Returns how many codes are NaN.
std::int64_t dequantize_e4m3(const BlockScaled& m, float* out, std::ptrdiff_t pitch);
std::int64_t dequantize_e4m3_bfloat16(const BlockScaled& m, std::uint16_t* out, std::ptrdiff_t pitch);

// Rows of a weight, each cut into groups of columns; group divides columns.
struct WeightRows {
    const float* values;
    std::size_t rows;
    std::size_t columns;
    std::ptrdiff_t pitch;  // elements from a row to the next
    std::size_t group;
};

// Codes go from -limit - 1 to limit; divisor, from limit on, is what the greatest magnitude is divided by.
struct CodeRange {
    int limit;
    float divisor;
};

struct Findings {
    std::int64_t zero = 0;
    std::int64_t not_finite = 0;
    std::int64_t tiny = 0;
    std::int64_t saturated = 0;
};

// codes: rows * columns; scales: rows * columns / group. scratch: group floats to search the scale of least square
// error with, null for the greatest magnitude's.
Findings quantize_rows(const WeightRows& m, CodeRange range, std::int8_t* codes, float* scales, float* scratch);

// The same of rows that are stored in e4m3, bit for bit what quantize_rows makes of dequantize_e4m3. scratch: 2 * group
// floats, or null. Adds to nan how many codes are NaN.
Findings requantize_e4m3(const BlockScaled& m, std::size_t group, CodeRange range, std::int8_t* codes, float* scales,
                         float* scratch, std::int64_t* nan);

constexpr std::size_t kMicroscaled = 32;

// A power of two for each 32 columns: exponents are rows * columns / 32 bytes of value 2**(byte - 127), 255 for none.
// codes: a byte an element, of e2m1 its lower half.
Findings microscale_e4m3(const WeightRows& m, std::uint8_t* codes, std::uint8_t* exponents);
Findings microscale_e2m1(const WeightRows& m, std::uint8_t* codes, std::uint8_t* exponents);

// A float32 scale for each block of height rows and group columns; those at the edges may be cut off. scratch: a number
// for each block of a row.
Findings quantize_blocks_int8(const WeightRows& m, std::size_t height, std::uint8_t* codes, float* scales,
                              std::uint32_t* scratch);
Findings quantize_blocks_e4m3(const WeightRows& m, std::size_t height, std::uint8_t* codes, float* scales,
                              std::uint32_t* scratch);

}  // namespace porting
