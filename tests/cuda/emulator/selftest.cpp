// Checks of the emulated machine itself: every intrinsic against a plain implementation of what it is documented to do,
// faulty kernels that must be found out, and misuse that must be refused.
//
//   selftest          runs every check
//   selftest NAME     runs one
//   selftest --list   prints their names
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>

#include "selftest.hpp"

namespace {

// --- places and order

void places() {
    for (uint64_t seed : seeds) {
        std::vector<int> visits(5 * 96, 0);
        run_grid(
            [&] {
                check(block_count() == 5 && block_threads() == 96, "wrong shape of the grid");
                ++visits[static_cast<size_t>(block_index() * 96 + thread_index())];
            },
            5, 96, 0, seed);
        check_equal(visits, std::vector<int>(5 * 96, 1), "visits of every thread");
    }
}

std::vector<int> order_of_run(int blocks, int threads, uint64_t seed) {
    std::vector<int> order;
    run_grid([&] { order.push_back(block_index() * threads + thread_index()); }, blocks, threads, 0, seed);
    return order;
}

void orders() {
    std::vector<int> ascending(6 * 64);
    for (size_t i = 0; i < ascending.size(); ++i) ascending[i] = static_cast<int>(i);
    const std::vector<int> descending(ascending.rbegin(), ascending.rend());
    check_equal(order_of_run(6, 64, 0), ascending, "seed 0");
    check_equal(order_of_run(6, 64, 1), descending, "seed 1");
    const std::vector<int> drawn = order_of_run(6, 64, 2);
    check_equal(order_of_run(6, 64, 2), drawn, "seed 2 again");
    check(drawn != ascending && drawn != descending && order_of_run(6, 64, 3) != drawn,
          "seeds 2 and 3 draw no order of their own");
    std::vector<int> sorted = drawn;
    std::sort(sorted.begin(), sorted.end());
    check_equal(sorted, ascending, "seed 2, sorted");
}

void shared_memory_starts_as_nans() {
    for (uint64_t seed : seeds)
        run_grid(
            [&] {
                auto* const values = reinterpret_cast<float*>(shared_memory());
                check(reinterpret_cast<uintptr_t>(values) % 128 == 0, "shared memory is not 128-byte aligned");
                const int each = 2048 / 4 / block_threads();
                for (int i = 0; i < each; ++i) {
                    float& value = values[thread_index() * each + i];
                    check(std::isnan(value), "shared memory holds what an earlier block left");
                    value = 1.0f;
                }
            },
            3, 64, 2048, seed);
}

// --- barriers

// Two rounds of reversal through shared memory: one barrier lets values arrive, the other lets them be overwritten.
std::vector<int> reversed_twice(int threads, bool first_barrier, bool second_barrier, uint64_t seed) {
    std::vector<int> out(static_cast<size_t>(threads), 0);
    run_grid(
        [&] {
            const int thread = thread_index();
            auto* const values = reinterpret_cast<int*>(shared_memory());
            int value = thread * thread;
            for (int round = 0; round < 2; ++round) {
                values[thread] = value + round;
                if (first_barrier) block_barrier();
                value = values[threads - 1 - thread];
                if (second_barrier) block_barrier();
            }
            out[static_cast<size_t>(thread)] = value;
        },
        1, threads, static_cast<size_t>(threads) * 4, seed);
    return out;
}

void block_barriers() {
    constexpr int threads = 128;
    std::vector<int> wanted(threads);
    for (int t = 0; t < threads; ++t) wanted[static_cast<size_t>(t)] = t * t + 1;
    const auto run = [](bool first, bool second) {
        return [=](uint64_t seed) { return reversed_twice(threads, first, second, seed); };
    };
    check_pair<int>(run(true, true), run(false, true), wanted);
    check_pair<int>(run(true, true), run(true, false), wanted);
}

std::vector<int> rotated_in_warps(bool barrier, uint64_t seed) {
    std::vector<int> out(64, 0);
    run_grid(
        [&] {
            const int thread = thread_index(), first = thread & ~31;
            auto* const values = reinterpret_cast<int*>(shared_memory());
            values[thread] = 3 * thread;
            if (barrier) warp_barrier();
            out[static_cast<size_t>(thread)] = values[first + ((thread + 16) & 31)];
        },
        1, 64, 256, seed);
    return out;
}

void warp_barriers() {
    std::vector<int> wanted(64);
    for (int t = 0; t < 64; ++t) wanted[static_cast<size_t>(t)] = 3 * ((t & ~31) + ((t + 16) & 31));
    check_pair<int>([](uint64_t seed) { return rotated_in_warps(true, seed); },
                    [](uint64_t seed) { return rotated_in_warps(false, seed); }, wanted);
}

void block_votes() {
    for (uint64_t seed : seeds)
        run_grid(
            [&] {
                for (int round = 0; round < 40; ++round) {
                    const bool any = block_any(round % 3 == 0 && thread_index() == (7 * round) % 96);
                    check(any == (round % 3 == 0), "block_any in round " + std::to_string(round));
                }
            },
            2, 96, 0, seed);
}

void ended_threads_do_not_hold_a_barrier() {
    for (uint64_t seed : seeds) {
        std::vector<int> reached(128, 0);
        run_grid(
            [&] {
                const int thread = thread_index();
                if (thread % 3 == 0) return;
                block_barrier();
                if (thread >= 64) return;
                const bool any = block_any(thread == 61);
                reached[static_cast<size_t>(thread)] = 1 + any;
            },
            1, 128, 0, seed);
        for (int t = 0; t < 128; ++t)
            check(reached[static_cast<size_t>(t)] == (t % 3 != 0 && t < 64 ? 2 : 0),
                  "thread " + std::to_string(t) + " ended elsewhere");
    }
}

// --- warp collectives

template <class Value>
void check_shuffles(uint64_t seed) {
    run_grid(
        [&] {
            const int thread = thread_index(), lane = thread & 31, warp = thread / 32;
            const auto value_of = [&](int at) { return static_cast<Value>((at + 1) * 1000003.0 + warp * 0.5); };
            for (int step = -40; step < 72; ++step) {
                // The instruction takes the low five bits of a lane or mask.
                check(warp_shuffle(value_of(lane), lane + step) == value_of((lane + step) & 31),
                      "warp_shuffle by " + std::to_string(step));
                check(warp_shuffle(value_of(lane), 5) == value_of(5), "warp_shuffle from lane 5");
                check(warp_shuffle_xor(value_of(lane), step) == value_of(lane ^ (step & 31)),
                      "warp_shuffle_xor by " + std::to_string(step));
            }
            Value sum = value_of(lane), wanted = 0;
            for (int mask = 16; mask > 0; mask >>= 1) sum += warp_shuffle_xor(sum, mask);
            for (int i = 0; i < 32; ++i) wanted += value_of(i);
            check(std::abs(static_cast<double>(sum) - static_cast<double>(wanted)) <= 1e-6 * static_cast<double>(wanted),
                  "sum by shuffles");
        },
        1, 64, 0, seed);
}

void shuffles() {
    for (uint64_t seed : seeds) {
        check_shuffles<float>(seed);
        check_shuffles<double>(seed);
        check_shuffles<int64_t>(seed);
        check_shuffles<int>(seed);
    }
}

void ballots() {
    for (uint64_t seed : seeds)
        run_grid(
            [&] {
                const int lane = thread_index() & 31, warp = thread_index() / 32;
                for (uint32_t pattern : {0u, 1u, 0x80000000u, 0xffffffffu, 0xdeadbeefu}) {
                    const uint32_t wanted = pattern ^ (warp == 1 ? 0x0f0f0f0fu : 0u);
                    check(warp_ballot((wanted >> lane) & 1u) == wanted, "warp_ballot");
                }
            },
            1, 64, 0, seed);
}

// --- atomics and bits

void atomics() {
    for (uint64_t seed : seeds) {
        int counter = 5;
        uint32_t smallest = 1u << 31, largest = 3;
        std::vector<int> tickets(3 * 64, 0);
        run_grid(
            [&] {
                const auto own = static_cast<uint32_t>(1000 + block_index() * 64 + thread_index());
                const int ticket = atomic_add(&counter, 1) - 5;
                check(ticket >= 0 && ticket < 3 * 64, "atomic_add returned no earlier value");
                ++tickets[static_cast<size_t>(ticket)];
                const uint32_t before = smallest;
                check(atomic_min(&smallest, own) == before && load_volatile(&smallest) == std::min(before, own), "atomic_min");
                const uint32_t lower = largest;
                check(atomic_max(&largest, own) == lower && load_volatile(&largest) == std::max(lower, own), "atomic_max");
            },
            3, 64, 0, seed);
        check_equal(tickets, std::vector<int>(3 * 64, 1), "tickets");
        check(load_volatile(&counter) == 5 + 3 * 64 && smallest == 1000u && largest == 1000u + 3 * 64 - 1, "results of atomics");
    }
}

void bits() {
    check(float_bits(1.0f) == 0x3f800000u && float_bits(-0.0f) == 0x80000000u, "float_bits");
    check(bits_float(0xc0490fdbu) == -3.14159274101257324f, "bits_float");
    check(count_bits(0u) == 0 && count_bits(0xffffffffu) == 32 && count_bits(0xf00f0001u) == 9, "count_bits");
    check(lowest_bit(0u) == -1 && lowest_bit(1u) == 0 && lowest_bit(0x80000000u) == 31 && lowest_bit(0xf0u) == 4, "lowest_bit");
}

// --- 16-bit floating point

// The value of a 16-bit pattern, from the definition of the format.
double decoded(uint32_t bits, int fraction_bits, int bias) {
    const int exponent = static_cast<int>((bits & 0x7fffu) >> fraction_bits);
    const double fraction = std::ldexp(static_cast<double>(bits & ((1u << fraction_bits) - 1u)), -fraction_bits);
    const double size = exponent == 0 ? std::ldexp(fraction, 1 - bias) : std::ldexp(1.0 + fraction, exponent - bias);
    return bits & 0x8000u ? -size : size;
}

void check_format(uint16_t (*encode)(float), float (*decode)(uint16_t), int fraction_bits, int bias) {
    const uint32_t infinity = 0x7fffu >> fraction_bits << fraction_bits;
    constexpr float inf = std::numeric_limits<float>::infinity();
    const auto check_bits = [&](float value, uint32_t wanted) {
        for (uint32_t sign : {0u, 0x8000u}) {
            const uint32_t found = encode(sign ? -value : value);
            check(found == (wanted | sign),
                  "encoding " + std::to_string(value) + ": " + std::to_string(found) + ", not " + std::to_string(wanted | sign));
        }
    };
    for (uint32_t bits = 0; bits < infinity; ++bits) {
        const double value = decoded(bits, fraction_bits, bias);
        check(decode(static_cast<uint16_t>(bits)) == value && decode(static_cast<uint16_t>(bits | 0x8000u)) == -value,
              "decoding " + std::to_string(bits));
        check_bits(static_cast<float>(value), bits);
        // Halfway to the next value, which after the largest would be a power of two, it is the even one; beside it, the nearer.
        const auto middle = static_cast<float>((value + decoded(bits + 1, fraction_bits, bias)) / 2);
        check_bits(middle, bits + (bits & 1u));
        check_bits(std::nextafter(middle, 0.0f), bits);
        check_bits(std::nextafter(middle, inf), bits + 1);
    }
    check_bits(inf, infinity);
    check_bits(std::numeric_limits<float>::max(), infinity);
    check_bits(std::numeric_limits<float>::denorm_min(), 0);
    check(decode(static_cast<uint16_t>(infinity)) == inf && decode(static_cast<uint16_t>(infinity | 0x8000u)) == -inf,
          "infinities");
    check(std::isnan(decode(static_cast<uint16_t>(infinity + 1))) && std::isnan(decode(encode(std::nanf("")))), "NaNs");
}

void halves() { check_format(float_to_half, half_to_float, 10, 15); }
void bfloat16s() { check_format(float_to_bfloat16, bfloat16_to_float, 7, 127); }

void pairs_of_halves() {
    check(pack_halves(1.0f, -2.0f) == 0xc0003c00u, "pack_halves puts the first in the low bits");
    float low = 0.0f, high = 0.0f;
    unpack_halves(0x7bff0001u, low, high);
    check(low == 0x1p-24f && high == 65504.0f, "unpack_halves");
}

// --- asynchronous copies

enum class Fault { none, no_wait, no_barrier, refilled_while_read };

// Three buffers in turn; a thread copies its own sixteen bytes and reads its neighbour's.
std::vector<int> piped(Fault fault, uint64_t seed) {
    constexpr int threads = 64, steps = 9, stages = 3;
    alignas(16) static int source[steps * threads * 4];
    for (int i = 0; i < steps * threads * 4; ++i) source[i] = 7 * i + 1;
    std::vector<int> out(threads * steps, 0);
    run_grid(
        [&] {
            const int thread = thread_index();
            auto* const buffer = reinterpret_cast<int*>(shared_memory());
            const auto start = [&](int step) {
                if (step < steps)
                    copy_async(buffer + (step % stages * threads + thread) * 4, source + (step * threads + thread) * 4, true);
                copy_commit();
            };
            for (int step = 0; step < stages - 1; ++step) start(step);
            for (int step = 0; step < steps; ++step) {
                if (fault == Fault::no_wait)
                    copy_wait<stages - 1>();
                else
                    copy_wait<stages - 2>();
                if (fault == Fault::refilled_while_read) start(step + stages - 1);
                if (fault != Fault::no_barrier) block_barrier();
                if (fault != Fault::refilled_while_read) start(step + stages - 1);
                out[static_cast<size_t>(step * threads + thread)] =
                    buffer[(step % stages * threads + (thread + 1) % threads) * 4 + 3];
            }
            copy_wait<0>();
        },
        1, threads, stages * threads * 16, seed);
    return out;
}

void piped_copies() {
    constexpr int threads = 64, steps = 9;
    std::vector<int> wanted(threads * steps);
    for (int step = 0; step < steps; ++step)
        for (int t = 0; t < threads; ++t)
            wanted[static_cast<size_t>(step * threads + t)] = 7 * ((step * threads + (t + 1) % threads) * 4 + 3) + 1;
    for (Fault fault : {Fault::no_wait, Fault::no_barrier, Fault::refilled_while_read})
        check_pair<int>([](uint64_t seed) { return piped(Fault::none, seed); }, [=](uint64_t seed) { return piped(fault, seed); },
                        wanted);
}

void copies_land_by_seed() {
    alignas(16) static const int source[4] = {1, 2, 3, 4};
    const auto landed_before_the_wait = [](uint64_t seed) {
        int landed = 0;
        run_grid(
            [&] {
                auto* const mine = reinterpret_cast<int*>(shared_memory()) + 4 * thread_index();
                copy_async(mine, source, true);
                landed += mine[3] == 4;
                copy_commit();
                copy_wait<1>();
                landed += mine[3] == 4;
                copy_wait<0>();
                check(mine[0] == 1 && mine[3] == 4, "a copy did not land at its wait");
            },
            1, 32, 512, seed);
        return landed;
    };
    check(landed_before_the_wait(0) == 0, "with seed 0, copies land before they are waited for");
    check(landed_before_the_wait(1) == 64, "with seed 1, copies do not land at once");
    const int some = landed_before_the_wait(2);
    check(some > 0 && some < 64, "with seed 2, copies all land alike");
}

// Groups land in the order of their commits, empty ones count, and no more land than the wait asks for.
void waits_count_groups() {
    alignas(16) static const int source[4] = {1, 1, 1, 1};
    run_grid(
        [&] {
            auto* const mine = reinterpret_cast<int*>(shared_memory()) + 16 * thread_index();
            const auto landed = [&] {
                return (mine[0] == 1) + 10 * (mine[4] == 1) + 100 * (mine[8] == 1) + 1000 * (mine[12] == 1);
            };
            copy_async(mine, source, true);
            copy_async(mine + 4, source, true);
            copy_commit();
            copy_commit();
            copy_async(mine + 8, source, true);
            copy_commit();
            copy_async(mine + 12, source, true);  // not committed: no wait concerns it
            copy_wait<3>();
            check(landed() == 0, "copy_wait<3> of three groups");
            copy_wait<2>();
            check(landed() == 11, "copy_wait<2> of three groups");
            copy_wait<1>();
            check(landed() == 11, "copy_wait<1> of three groups, the second empty");
            copy_wait<0>();
            check(landed() == 111, "copy_wait<0> before the last commit");
            copy_commit();
            copy_wait<0>();
            check(landed() == 1111, "copy_wait<0> after the last commit");
        },
        1, 32, 2048, 0);
}

void copies_fill_with_zeros() {
    for (uint64_t seed : seeds)
        run_grid(
            [&] {
                auto* const mine = reinterpret_cast<int*>(shared_memory()) + 4 * thread_index();
                for (int i = 0; i < 4; ++i) mine[i] = 9;
                copy_async(mine, reinterpret_cast<const void*>(uintptr_t{16}), false);  // an address that cannot be read
                copy_commit();
                copy_wait<0>();
                for (int i = 0; i < 4; ++i) check(mine[i] == 0, "an invalid copy must write zeros");
            },
            1, 32, 512, seed);
}

// --- tensor cores

void fragment_loads() {
    for (uint64_t seed : seeds) {
        std::vector<uint32_t> out(32 * 4, 0);
        // Matrix m, row r lies at piece (5 * (8 * m + r)) mod 32; its element c is 1000 m + 10 r + c.
        const auto element = [](int m, int r, int c) { return static_cast<uint32_t>(1000 * m + 10 * r + c); };
        run_grid(
            [&] {
                const int lane = thread_index();
                auto* const values = reinterpret_cast<uint16_t*>(shared_memory());
                auto* const row = values + 5 * lane % 32 * 8;
                for (int c = 0; c < 8; ++c) row[c] = static_cast<uint16_t>(element(lane / 8, lane % 8, c));
                uint32_t fragment[4];
                load_matrices(fragment, row);
                for (int j = 0; j < 4; ++j) out[static_cast<size_t>(lane * 4 + j)] = fragment[j];
            },
            1, 32, 512, seed);
        for (int lane = 0; lane < 32; ++lane)
            for (int j = 0; j < 4; ++j)
                check(out[static_cast<size_t>(lane * 4 + j)] ==
                          (element(j, lane / 4, 2 * (lane % 4)) | element(j, lane / 4, 2 * (lane % 4) + 1) << 16),
                      "register " + std::to_string(j) + " of lane " + std::to_string(lane));
    }
}

template <class Operand>
uint16_t encoded(float value) {
    if constexpr (std::is_same_v<Operand, HalfOperand>)
        return float_to_half(value);
    else
        return float_to_bfloat16(value);
}

// Fragments put together element by element, by the PTX ISA's formulas for the row and column of a lane's i-th element;
// small integers, so that the result is exact.
template <class Operand>
void check_fragments(uint64_t seed) {
    const auto a_of = [](int row, int column) { return (7 * row + 3 * column) % 13 - 6; };
    const auto b_of = [](int row, int column) { return (5 * row + 11 * column) % 17 - 8; };
    const auto c_of = [](int row, int column) { return 100 * row + column; };
    std::vector<float> found(16 * 8, 0.0f), wanted(16 * 8, 0.0f);
    for (int row = 0; row < 16; ++row)
        for (int column = 0; column < 8; ++column) {
            int sum = c_of(row, column);
            for (int k = 0; k < 16; ++k) sum += a_of(row, k) * b_of(k, column);
            wanted[static_cast<size_t>(row * 8 + column)] = static_cast<float>(sum);
        }
    run_grid(
        [&] {
            const int lane = thread_index(), group = lane >> 2, in_group = lane % 4;
            uint16_t a[8], b[4];
            float d[4];
            for (int i = 0; i < 8; ++i) {
                const int row = i < 2 || (i >= 4 && i < 6) ? group : group + 8;
                const int column = in_group * 2 + (i & 1) + (i < 4 ? 0 : 8);
                a[i] = encoded<Operand>(static_cast<float>(a_of(row, column)));
            }
            for (int i = 0; i < 4; ++i)
                b[i] = encoded<Operand>(static_cast<float>(b_of(in_group * 2 + (i & 1) + (i < 2 ? 0 : 8), group)));
            const auto row_of = [&](int i) { return i < 2 ? group : group + 8; };
            const auto column_of = [&](int i) { return in_group * 2 + (i & 1); };
            for (int i = 0; i < 4; ++i) d[i] = static_cast<float>(c_of(row_of(i), column_of(i)));
            const auto word = [](const uint16_t* pair) { return static_cast<uint32_t>(pair[1]) << 16 | pair[0]; };
            multiply(Operand{}, d, {word(a), word(a + 2), word(a + 4), word(a + 6)}, word(b), word(b + 2));
            for (int i = 0; i < 4; ++i) found[static_cast<size_t>(row_of(i) * 8 + column_of(i))] = d[i];
        },
        1, 32, 0, seed);
    check_equal(found, wanted, "product of fragments, seed " + std::to_string(seed));
}

void fragment_products() {
    for (uint64_t seed : seeds) {
        check_fragments<HalfOperand>(seed);
        check_fragments<BFloat16Operand>(seed);
    }
}

// The way a kernel goes: copies to shared memory, fragment loads, products; each warp 16 rows by 16 columns.
template <class Operand>
void check_product(uint64_t seed) {
    constexpr int rows = 32, columns = 16, depth = 64, stride = depth + 8;
    alignas(16) static uint16_t left[rows * depth], right[columns * depth];
    static float exact_left[rows * depth], exact_right[columns * depth];
    uint32_t state = 12345;
    const auto fill = [&](uint16_t* stored, float* exact, int count) {
        for (int i = 0; i < count; ++i) {
            state = state * 1664525u + 1013904223u;
            stored[i] = encoded<Operand>(static_cast<float>(state >> 8) * 0x1p-23f - 1.0f);
            exact[i] = std::is_same_v<Operand, HalfOperand> ? half_to_float(stored[i]) : bfloat16_to_float(stored[i]);
        }
    };
    fill(left, exact_left, rows * depth);
    fill(right, exact_right, columns * depth);
    std::vector<float> found(rows * columns, 0.0f);
    run_grid(
        [&] {
            auto* const shared = reinterpret_cast<uint16_t*>(shared_memory());
            for (int piece = thread_index(); piece < (rows + columns) * depth / 8; piece += block_threads()) {
                const int row = piece / (depth / 8), channel = piece % (depth / 8) * 8;
                copy_async(shared + row * stride + channel,
                           row < rows ? left + row * depth + channel : right + (row - rows) * depth + channel, true);
            }
            copy_commit();
            copy_wait<0>();
            block_barrier();
            const int lane = thread_index() & 31, first = thread_index() / 32 * 16;
            float d[2][4] = {};
            for (int k = 0; k < depth; k += 16) {
                uint32_t a[4], b[4];
                load_matrices(a, shared + (first + (lane & 15)) * stride + k + (lane >> 4) * 8);
                load_matrices(b, shared + (rows + (lane & 7) + (lane >> 4) * 8) * stride + k + ((lane >> 3) & 1) * 8);
                for (int j = 0; j < 2; ++j) multiply(Operand{}, d[j], a, b[2 * j], b[2 * j + 1]);
            }
            for (int j = 0; j < 2; ++j)
                for (int i = 0; i < 4; ++i)
                    found[static_cast<size_t>((first + lane / 4 + 8 * (i >> 1)) * columns + 8 * j + 2 * (lane % 4) + (i & 1))] =
                        d[j][i];
        },
        1, 64, (rows + columns) * stride * 2, seed);
    for (int row = 0; row < rows; ++row)
        for (int column = 0; column < columns; ++column) {
            double sum = 0.0, size = 0.0;
            for (int k = 0; k < depth; ++k) {
                const double term = static_cast<double>(exact_left[row * depth + k]) * exact_right[column * depth + k];
                sum += term;
                size += std::abs(term);
            }
            const double found_here = found[static_cast<size_t>(row * columns + column)];
            check(std::abs(found_here - sum) <= depth * 0x1p-24 * size,
                  "product at " + std::to_string(row) + ", " + std::to_string(column) + ": " + std::to_string(found_here) +
                      ", not " + std::to_string(sum));
        }
}

void matrix_products() {
    for (uint64_t seed : seeds) {
        check_product<HalfOperand>(seed);
        check_product<BFloat16Operand>(seed);
    }
}

// --- misuse

void refused_shapes() {
    check_refused([] {}, "a block has 48 threads; it needs a multiple of 32 up to 1024", 48);
    check_refused([] {}, "a block has 0 threads", 0);
    check_refused([] {}, "a block has 1056 threads", 1056);
}

void refused_addresses() {
    alignas(16) static const char source[32] = {};
    const auto copy_to = [](int offset) {
        return [=] {
            copy_async(shared_memory() + offset, source, true);
            copy_commit();
            copy_wait<0>();
        };
    };
    check_refused(copy_to(8), "copy_async: shared address is not 16-byte aligned, block 0, warp");
    check_refused(copy_to(1024), "copy_async: address outside the block's shared memory");
    check_refused(copy_to(-16), "copy_async: address outside the block's shared memory");
    check_refused([] { copy_async(shared_memory(), source + 4, true); }, "copy_async: global address is not 16-byte aligned");
    const auto load_from = [](int offset) {
        return [=] {
            uint32_t fragment[4];
            load_matrices(fragment, shared_memory() + offset);
        };
    };
    check_refused(load_from(4), "load_matrices: shared address is not 16-byte aligned");
    check_refused(load_from(1024), "load_matrices: address outside the block's shared memory");
    check_refused(
        [] {
            if (thread_index() == 5) shared_memory()[1024] = 0;
        },
        "a write outside the block's shared memory, block 0");
    check_refused(
        [] {
            if (thread_index() == 5) shared_memory()[-1] = 0;
        },
        "a write outside the block's shared memory, block 0");
}

void refused_copies() {
    alignas(16) static const char source[16] = {};
    check_refused([] { copy_async(shared_memory(), source, true); }, "asynchronous copies were never committed");
    check_refused(
        [] {
            copy_async(shared_memory(), source, true);
            copy_commit();
            copy_wait<1>();
        },
        "asynchronous copies were never waited for");
}

void refused_divergence() {
    check_refused(
        [] {
            if (thread_index() % 32 < 7)
                warp_ballot(true);
            else
                warp_barrier();
        },
        "meets lanes of its warp at");
    check_refused(
        [] {
            if (thread_index() != 40) warp_ballot(true);
        },
        "warp_ballot: only 31 of the warp's 32 lanes ever arrive; one waits in block 0, warp 1");
    check_refused(
        [] {
            if (thread_index() < 40)
                warp_barrier();
            else
                block_barrier();
        },
        "warp_barrier: only 8 of the warp's 32 lanes ever arrive; one waits in block 0, warp 1");
    check_refused(
        [] {
            if (thread_index() < 32)
                block_barrier();
            else
                block_any(true);
        },
        "block_barrier meets block_any");
}

void kernels_may_throw() {
    check_refused(
        [] {
            block_barrier();
            if (thread_index() == 33) throw std::out_of_range("thrown by a kernel");
            block_barrier();
        },
        "thrown by a kernel");
}

constexpr Check checks[] = {
    {"places", places},
    {"orders", orders},
    {"shared_memory_starts_as_nans", shared_memory_starts_as_nans},
    {"block_barriers", block_barriers},
    {"warp_barriers", warp_barriers},
    {"block_votes", block_votes},
    {"ended_threads_do_not_hold_a_barrier", ended_threads_do_not_hold_a_barrier},
    {"shuffles", shuffles},
    {"ballots", ballots},
    {"atomics", atomics},
    {"bits", bits},
    {"halves", halves},
    {"bfloat16s", bfloat16s},
    {"pairs_of_halves", pairs_of_halves},
    {"piped_copies", piped_copies},
    {"copies_land_by_seed", copies_land_by_seed},
    {"waits_count_groups", waits_count_groups},
    {"copies_fill_with_zeros", copies_fill_with_zeros},
    {"fragment_loads", fragment_loads},
    {"fragment_products", fragment_products},
    {"matrix_products", matrix_products},
    {"refused_shapes", refused_shapes},
    {"refused_addresses", refused_addresses},
    {"refused_copies", refused_copies},
    {"refused_divergence", refused_divergence},
    {"kernels_may_throw", kernels_may_throw},
};

}  // namespace

int main(int count, char** words) {
    const std::string wanted = count > 1 ? words[1] : "";
    int ran = 0, failed = 0;
    std::vector<Check> all(std::begin(checks), std::end(checks));
    all.insert(all.end(), hopper_checks().begin(), hopper_checks().end());
    for (const Check& one : all) {
        if (wanted == "--list") {
            std::puts(one.name);
        } else if (wanted.empty() || wanted == one.name) {
            ++ran;
            try {
                one.run();
            } catch (const std::exception& error) {
                ++failed;
                std::fprintf(stderr, "%s: %s\n", one.name, error.what());
            }
        }
    }
    if (wanted != "--list" && ran == 0) {
        std::fprintf(stderr, "no check is called '%s'\n", wanted.c_str());
        return 2;
    }
    return failed == 0 ? 0 : 1;
}
