#pragma once
// What every header agrees on before anything else: the version, the compiler flags that are refused, and the inline
// namespace that keeps objects built for different instruction sets apart (a scalar policy function has the same symbol
// in both otherwise, and the linker may keep the AVX-512 body for an AVX2 machine).

#define LONGSPAN_VERSION_MAJOR 0
#define LONGSPAN_VERSION_MINOR 1
#define LONGSPAN_VERSION_PATCH 0

#if defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__
#error "longspan needs real infinities: masked scores are -inf. Compile without -ffast-math / -ffinite-math-only."
#endif

// LONGSPAN_NO_DOT_PRODUCTS: elements are widened to float even where the machine multiplies them as they are.
#if defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__) && !defined(LONGSPAN_NO_DOT_PRODUCTS)
#if defined(__AVX512BF16__)
#define LONGSPAN_BF16_DOT_PRODUCTS 1
#endif
#if defined(__AVX512VNNI__)
#define LONGSPAN_INTEGER_DOT_PRODUCTS 1
#endif
#endif

#if defined(LONGSPAN_BF16_DOT_PRODUCTS) && defined(LONGSPAN_INTEGER_DOT_PRODUCTS)
#define LONGSPAN_ISA_NAME avx512bf16_vnni
#elif defined(LONGSPAN_BF16_DOT_PRODUCTS)
#define LONGSPAN_ISA_NAME avx512bf16
#elif defined(LONGSPAN_INTEGER_DOT_PRODUCTS)
#define LONGSPAN_ISA_NAME avx512vnni
#elif defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__)
#define LONGSPAN_ISA_NAME avx512
#elif defined(__AVX512F__)
#define LONGSPAN_ISA_NAME avx512f
#elif defined(__AVX2__) && defined(__FMA__)
#define LONGSPAN_ISA_NAME avx2
#elif defined(__AVX__) && defined(__FMA__)
#define LONGSPAN_ISA_NAME avx_fma
#elif defined(__AVX__)
#define LONGSPAN_ISA_NAME avx
#elif defined(__ARM_NEON) && defined(__aarch64__)
#define LONGSPAN_ISA_NAME neon64
#elif defined(__SSE4_1__)
#define LONGSPAN_ISA_NAME sse41
#else
#define LONGSPAN_ISA_NAME baseline
#endif

// LONGSPAN_FREE_ORDER: sums in whatever order is fast, so without the numeric contract; what a benchmark compares it
// with. Bits then depend on the kernel and on where a call begins.
#define LONGSPAN_JOIN(a, b) a##b
#if defined(LONGSPAN_FREE_ORDER)
#define LONGSPAN_SUFFIXED(name) LONGSPAN_JOIN(name, _free_order)
#define LONGSPAN_ISA LONGSPAN_SUFFIXED(LONGSPAN_ISA_NAME)
#else
#define LONGSPAN_ISA LONGSPAN_ISA_NAME
#endif
namespace longspan::inline LONGSPAN_ISA {
#if defined(LONGSPAN_FREE_ORDER)
inline constexpr bool kFixedOrder = false;
#else
inline constexpr bool kFixedOrder = true;
#endif
}  // namespace longspan::inline LONGSPAN_ISA

#if defined(__GNUC__) || defined(__clang__)
#define LONGSPAN_INLINE __attribute__((always_inline)) inline
#define LONGSPAN_LAMBDA __attribute__((always_inline))
/// The compiler is not to know where the value of a variable comes from.
#define LONGSPAN_OPAQUE(variable) __asm__("" : "+r"(variable))
#else
#define LONGSPAN_INLINE inline
#define LONGSPAN_LAMBDA
#define LONGSPAN_OPAQUE(variable)
#endif
