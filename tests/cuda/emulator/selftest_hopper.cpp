// Checks of the emulated machine's sm_90 part, as selftest.cpp has them of the rest.
#include <algorithm>
#include <cmath>

#include "cuda/device_sm90.cuh"
#include "selftest.hpp"

namespace {

using fastspade::emulate::encode_tensor_map;

// Where element (row, channel) of an operand lies: rows of 128 bytes, 16-byte pieces exchanged by the row's low bits.
int operand_place(int row, int channel) { return row * 64 + ((channel / 8 ^ row % 8) * 8) + channel % 8; }

// --- mbarriers

enum class Handover { sound, no_wait, wrong_parity, no_wait_before_refill, one_phase_skipped };

// Warp 0 fills two buffers in turn, warp 1 reads them; each waits for the other by mbarriers.
std::vector<int> handed_over(Handover fault, uint64_t seed) {
    constexpr int steps = 7, stages = 2;
    std::vector<int> out(steps * 32, 0);
    run_grid(
        [&] {
            const int lane = thread_index() % 32;
            auto* const barriers = reinterpret_cast<uint64_t*>(shared_memory());  // full, full, empty, empty
            auto* const buffer = reinterpret_cast<int*>(shared_memory() + 64);
            if (thread_index() == 0)
                for (int i = 0; i < 2 * stages; ++i) mbarrier_init(barriers + i, 32);
            mbarrier_init_fence();
            block_barrier();
            for (int step = 0; step < steps; ++step) {
                const int stage = step % stages;
                const uint32_t parity = static_cast<uint32_t>(step / stages & 1);
                if (thread_index() < 32) {
                    if (fault != Handover::no_wait_before_refill) mbarrier_wait(barriers + stages + stage, parity ^ 1u);
                    buffer[stage * 32 + lane] = 100 * step + lane;
                    mbarrier_arrive(barriers + stage);
                } else {
                    if (fault != Handover::no_wait)
                        mbarrier_wait(barriers + stage, fault == Handover::wrong_parity ? parity ^ 1u : parity);
                    out[static_cast<size_t>(step * 32 + lane)] = buffer[stage * 32 + (lane + 1) % 32];
                    if (fault != Handover::one_phase_skipped || step != 3) mbarrier_arrive(barriers + stages + stage);
                }
            }
        },
        1, 64, 64 + stages * 128, seed);
    return out;
}

void mbarriers() {
    std::vector<int> wanted;
    for (int step = 0; step < 7; ++step)
        for (int lane = 0; lane < 32; ++lane) wanted.push_back(100 * step + (lane + 1) % 32);
    for (Handover fault : {Handover::no_wait, Handover::wrong_parity, Handover::no_wait_before_refill}) {
        bool found_out = false;
        for (uint64_t seed : seeds) {
            check_equal(handed_over(Handover::sound, seed), wanted, "sound kernel, seed " + std::to_string(seed));
            try {
                found_out |= handed_over(fault, seed) != wanted;
            } catch (const std::exception&) {
                found_out = true;
            }
        }
        check(found_out, "the faulty kernel gave the right result in every order");
    }
    for (uint64_t seed : seeds) {
        std::string message;
        try {
            handed_over(Handover::one_phase_skipped, seed);
        } catch (const std::exception& error) {
            message = error.what();
        }
        check(message.find("never ends, 32 arrivals and 0 bytes are missing") != std::string::npos,
              "a forgotten arrival gave: " + message);
    }
}

void a_new_mbarrier_has_ended_a_phase_of_parity_one() {
    for (uint64_t seed : seeds)
        run_grid(
            [] {
                auto* const barrier = reinterpret_cast<uint64_t*>(shared_memory());
                if (thread_index() == 0) mbarrier_init(barrier, 1);
                block_barrier();
                mbarrier_wait(barrier, 1u);
                block_barrier();
                if (thread_index() == 0) mbarrier_arrive(barrier);
                mbarrier_wait(barrier, 0u);
            },
            1, 32, 64, seed);
}

// --- bulk tensor copies

constexpr int images = 2, height = 3, width = 5, channels = 128;

std::vector<uint16_t>& pictures() {  // (image, y, x, channel), 16-byte aligned
    static std::vector<uint16_t> storage(images * height * width * channels + 8);
    return storage;
}
uint16_t* picture_data() {
    uint16_t* data = pictures().data();
    while (reinterpret_cast<uintptr_t>(data) % 16 != 0) ++data;
    for (int i = 0; i < images * height * width * channels; ++i) data[i] = static_cast<uint16_t>(i + 1);
    return data;
}
TensorBox picture_box(int across, int down) {
    return {picture_data(),
            false,
            4,
            {channels, width, height, images},
            {1, channels, channels * width, channels * width * height},
            {64, across, down, 1}};
}
TensorBox run_box(int rows) { return {picture_data(), false, 2, {channels, images * height * width}, {1, channels}, {64, rows}}; }

void tensor_loads() {
    const uint16_t* const data = picture_data();
    const auto map = encode_tensor_map(picture_box(8, 4)), rows = encode_tensor_map(run_box(16));
    for (uint64_t seed : seeds)
        run_grid(
            [&] {
                auto* const barrier = reinterpret_cast<uint64_t*>(shared_memory() + 6144);
                auto* const box = reinterpret_cast<uint16_t*>(shared_memory());
                auto* const run = reinterpret_cast<uint16_t*>(shared_memory() + 4096);
                if (thread_index() == 0) {
                    mbarrier_init(barrier, 1);
                    mbarrier_init_fence();
                    mbarrier_arrive_expect(barrier, 4096 + 2048);
                    tensor_load(box, map, barrier, 64, -2, 1, 1);
                    tensor_load(run, rows, barrier, 0, 20);
                }
                block_barrier();
                mbarrier_wait(barrier, 0u);
                for (int i = thread_index(); i < 32 * 64; i += 32) {
                    const int row = i / 64, channel = i % 64, x = row % 8 - 2, y = row / 8 + 1;
                    const bool inside = x >= 0 && x < width && y < height;
                    const int wanted = inside ? data[((1 * height + y) * width + x) * channels + 64 + channel] : 0;
                    check(box[operand_place(row, channel)] == wanted,
                          "a picture's box, row " + std::to_string(row) + ", channel " + std::to_string(channel));
                }
                for (int i = thread_index(); i < 16 * 64; i += 32) {
                    const int row = i / 64, channel = i % 64, pixel = 20 + row;
                    const int wanted = pixel < images * height * width ? data[pixel * channels + channel] : 0;
                    check(run[operand_place(row, channel)] == wanted, "a run of pixels, row " + std::to_string(row));
                }
            },
            1, 32, 6144 + 64, seed);
}

void tensor_loads_land_by_seed() {
    const auto map = encode_tensor_map(run_box(8));
    const auto landed_at_once = [&](uint64_t seed) {
        int landed = 0;
        run_grid(
            [&] {
                auto* const barrier = reinterpret_cast<uint64_t*>(shared_memory() + 16 * 1024);
                if (thread_index() != 0) return;
                mbarrier_init(barrier, 1);
                mbarrier_init_fence();
                mbarrier_arrive_expect(barrier, 16 * 1024);
                for (int i = 0; i < 16; ++i) {
                    auto* const to = reinterpret_cast<uint16_t*>(shared_memory() + i * 1024);
                    tensor_load(to, map, barrier, 0, 0);
                    landed += to[0] == 1;
                }
                mbarrier_wait(barrier, 0u);
                for (int i = 0; i < 16; ++i)
                    check(reinterpret_cast<uint16_t*>(shared_memory() + i * 1024)[0] == 1,
                          "a copy did not land before its mbarrier's phase ended");
            },
            1, 32, 16 * 1024 + 64, seed);
        return landed;
    };
    check(landed_at_once(0) == 0, "with seed 0, copies land before they must");
    check(landed_at_once(1) == 16, "with seed 1, copies do not land at once");
    const int some = landed_at_once(2);
    check(some > 0 && some < 16, "with seed 2, copies all land alike");
}

// --- warpgroup products

template <class Operand>
uint16_t encoded(float value) {
    if constexpr (std::is_same_v<Operand, HalfOperand>)
        return float_to_half(value);
    else
        return float_to_bfloat16(value);
}

enum class Misread { none, results_before_the_wait, operands_overwritten_before_the_wait };

// Two warpgroups, each with 64 rows of its own against the same 128; small integers, so that results are exact.
template <class Operand>
std::vector<float> product_of_warpgroups(Misread fault, int group_stride, uint64_t seed) {
    constexpr int depth = 64;
    std::vector<float> out(2 * 64 * 128, 0.0f);
    const int row_step = group_stride / 1024;  // the product's eights of rows are every so manieth of those stored
    run_grid(
        [&] {
            const int thread = thread_index(), warpgroup = thread / 128, warp = thread / 32 % 4, lane = thread % 32;
            auto* const left = reinterpret_cast<uint16_t*>(shared_memory()) + warpgroup * 64 * row_step * depth;
            auto* const right = reinterpret_cast<uint16_t*>(shared_memory() + 2 * 64 * row_step * depth * 2);
            for (int i = thread % 128; i < 64 * depth; i += 128) {
                const int row = i / depth, stored = row / 8 * 8 * row_step + row % 8;
                left[operand_place(stored, i % depth)] =
                    encoded<Operand>(static_cast<float>((7 * row + 3 * (i % depth) + 5 * warpgroup) % 13 - 6));
            }
            for (int i = thread; i < 128 * depth; i += 256)
                right[operand_place(i / depth, i % depth)] =
                    encoded<Operand>(static_cast<float>((5 * (i / depth) + 11 * (i % depth)) % 17 - 8));
            block_barrier();
            float d[64];
            for (float& value : d) value = 1e6f;  // the first product must not add to it
            uint64_t a = operand_descriptor(left, group_stride), b = operand_descriptor(right, 1024);
            product_fence();
            for (int k = 0; k < depth / 16; ++k, a += operand_next_channels, b += operand_next_channels)
                multiply_async(Operand{}, d, a, b, k > 0);
            product_commit();
            if (fault == Misread::operands_overwritten_before_the_wait && thread % 128 == 0)
                left[operand_place(0, 3)] = encoded<Operand>(99.0f);
            if (fault != Misread::results_before_the_wait) product_wait<0>();
            product_pin(d);
            for (int i = 0; i < 64; ++i) {
                const int row = 16 * warp + lane / 4 + 8 * (i / 2 % 2), column = 8 * (i / 4) + 2 * (lane % 4) + i % 2;
                out[static_cast<size_t>((warpgroup * 64 + row) * 128 + column)] = d[i];
            }
            if (fault == Misread::results_before_the_wait) product_wait<0>();
        },
        1, 256, static_cast<size_t>(2 * 64 * row_step + 128) * depth * 2, seed);
    return out;
}

template <class Operand>
void check_products(int group_stride) {
    std::vector<float> wanted;
    for (int warpgroup = 0; warpgroup < 2; ++warpgroup)
        for (int row = 0; row < 64; ++row)
            for (int column = 0; column < 128; ++column) {
                int sum = 0;
                for (int k = 0; k < 64; ++k)
                    sum += ((7 * row + 3 * k + 5 * warpgroup) % 13 - 6) * ((5 * column + 11 * k) % 17 - 8);
                wanted.push_back(static_cast<float>(sum));
            }
    const auto run = [=](Misread fault) {
        return [=](uint64_t seed) { return product_of_warpgroups<Operand>(fault, group_stride, seed); };
    };
    for (Misread fault : {Misread::results_before_the_wait, Misread::operands_overwritten_before_the_wait})
        check_pair<float>(run(Misread::none), run(fault), wanted);
}

void warpgroup_products() {
    for (int group_stride : {1024, 2048}) {
        check_products<HalfOperand>(group_stride);
        check_products<BFloat16Operand>(group_stride);
    }
}

// --- named barriers

std::vector<int> rotated_in_parts(bool barrier, uint64_t seed) {
    std::vector<int> out(192, 0);
    run_grid(
        [&] {
            const int thread = thread_index(), part = thread / 64, in_part = thread % 64;
            auto* const values = reinterpret_cast<int*>(shared_memory());
            values[thread] = 3 * thread;
            if (barrier) group_barrier(1 + part, 64);
            out[static_cast<size_t>(thread)] = values[part * 64 + (in_part + 32) % 64];
            if (part == 2) return;  // the other parts go on without it
            for (int round = 0; round < 9; ++round)
                check(group_any(7, 128, round % 3 == 0 && thread == 77) == (round % 3 == 0),
                      "group_any in round " + std::to_string(round));
        },
        1, 192, 192 * 4, seed);
    return out;
}

void named_barriers() {
    std::vector<int> wanted(192);
    for (int t = 0; t < 192; ++t) wanted[static_cast<size_t>(t)] = 3 * (t / 64 * 64 + (t % 64 + 32) % 64);
    check_pair<int>([](uint64_t seed) { return rotated_in_parts(true, seed); },
                    [](uint64_t seed) { return rotated_in_parts(false, seed); }, wanted);
}

// --- misuse

void refused_mbarriers() {
    const auto first = [] { return reinterpret_cast<uint64_t*>(shared_memory()); };
    check_refused([=] { mbarrier_arrive(first()); }, "an mbarrier that was never initialised");
    check_refused([=] { mbarrier_init(first() + 128, 1); }, "mbarrier: address outside the block's shared memory");
    check_refused([=] { mbarrier_init(reinterpret_cast<uint64_t*>(shared_memory() + 4), 1); },
                  "mbarrier: shared address is not 8-byte aligned");
    check_refused(
        [=] {
            if (thread_index() == 0) {
                mbarrier_init(first(), 1);
                mbarrier_init(first(), 1);
            }
        },
        "an mbarrier initialised twice");
    check_refused(
        [=] {
            if (thread_index() == 0) {
                mbarrier_init(first(), 1);
                *first() = 0;
                mbarrier_arrive(first());
            }
        },
        "an mbarrier's word was overwritten");
    check_refused(
        [=] {
            if (thread_index() != 0) return;
            mbarrier_init(first(), 1);
            mbarrier_arrive_expect(first(), 16);  // a phase that bytes are missing from
            mbarrier_arrive(first());
        },
        "more arrivals at an mbarrier than its phase has");
    check_refused(
        [=] {
            if (thread_index() == 0) mbarrier_init(first(), 2);
            block_barrier();
            if (thread_index() == 0) mbarrier_arrive_expect(first(), 48);
            mbarrier_wait(first(), 0u);
        },
        "mbarrier_wait: the phase of parity 0 never ends, 1 arrivals and 48 bytes are missing; one waits in block 0");
}

void refused_tensor_loads() {
    const auto map = encode_tensor_map(run_box(8));
    const auto load = [&map](int offset, bool fence, bool wait, int dimensions) {
        return [&map, offset, fence, wait, dimensions] {
            if (thread_index() != 0) return;
            auto* const barrier = reinterpret_cast<uint64_t*>(shared_memory() + 2048);
            mbarrier_init(barrier, 1);
            if (fence) mbarrier_init_fence();
            mbarrier_arrive_expect(barrier, 1024);
            if (dimensions == 2)
                tensor_load(shared_memory() + offset, map, barrier, 0, 0);
            else
                tensor_load(shared_memory() + offset, map, barrier, 0, 0, 0, 0);
            if (wait) mbarrier_wait(barrier, 0u);
        };
    };
    check_refused(load(512, true, true, 2), "tensor_load: shared address is not 1024-byte aligned", 64, 2112);
    check_refused(load(2048, true, true, 2), "tensor_load: address outside the block's shared memory", 64, 2112);
    check_refused(load(0, false, true, 2), "tensor_load: the mbarrier's initialisation was not fenced", 64, 2112);
    check_refused(load(0, true, true, 4), "tensor_load: the map has 2 dimensions", 64, 2112);
    check_refused([] { tensor_load(shared_memory(), TensorMap{}, nullptr, 0, 0); }, "tensor_load: no tensor map");
    std::string message;  // a copy that nobody waits for: found where it lands late
    try {
        run_grid(load(0, true, false, 2), 1, 64, 2112, 0);
    } catch (const std::exception& error) {
        message = error.what();
    }
    check(message.find("bulk copies were still under way when block 0 ended") != std::string::npos,
          "an unawaited copy gave: " + message);
}

void refused_tensor_maps() {
    const auto refused = [](const TensorBox& box, const std::string& needle) {
        std::string message = "nothing was thrown";
        try {
            encode_tensor_map(box);
        } catch (const std::exception& error) {
            message = error.what();
        }
        check(message.find(needle) != std::string::npos, "wanted an error with '" + needle + "', got: " + message);
    };
    TensorBox box = run_box(8);
    box.data = static_cast<const char*>(box.data) + 2;
    refused(box, "not 16-byte aligned");
    refused({picture_data(), false, 2, {64, 4}, {1, 68}, {64, 4}}, "stride of 136 bytes");
    refused({picture_data(), false, 2, {64, 0}, {1, 64}, {64, 4}}, "size 0");
    refused({picture_data(), false, 2, {64, 4}, {1, 64}, {64, 257}}, "box of 257");
    refused({picture_data(), false, 2, {64, 4}, {1, 64}, {32, 4}}, "rows are not 128 bytes");
    refused({picture_data(), false, 2, {64, 4}, {2, 64}, {64, 4}}, "stride is not 1");
}

void refused_products() {
    struct Fault {
        bool fence = true, commit = true, wait = true;
        int offset = 0, group_stride = 1024, lane = -1, warp = -1;
        uint64_t other_bits = 0;
    };
    const auto multiply_with = [](Fault fault) {
        return [fault] {
            static float d[128][64];
            for (int i = thread_index(); i < 192 * 64; i += 128) reinterpret_cast<uint16_t*>(shared_memory())[i] = 0;
            block_barrier();
            const bool odd = thread_index() % 32 == fault.lane || thread_index() / 32 == fault.warp;
            const uint64_t a =
                operand_descriptor(shared_memory() + fault.offset + (odd ? 8192 : 0), fault.group_stride) ^ fault.other_bits;
            if (fault.fence) product_fence();
            multiply_async(HalfOperand{}, d[thread_index()], a, operand_descriptor(shared_memory() + 8192, 1024), false);
            if (fault.commit) product_commit();
            if (fault.wait) product_wait<0>();
        };
    };
    const auto refuse = [&](Fault fault, const std::string& needle) {
        check_refused(multiply_with(fault), needle, 128, 192 * 128);
    };
    run_grid(multiply_with({}), 1, 128, 192 * 128, 0);
    refuse({.fence = false}, "multiply_async without a product_fence");
    refuse({.commit = false}, "products were never committed");
    refuse({.wait = false}, "products were never waited for");
    refuse({.offset = 512}, "groups of eight rows are not 1024-byte aligned");
    refuse({.group_stride = 512}, "groups of eight rows are not 1024-byte aligned");
    refuse({.group_stride = 16384}, "operand outside the block's shared memory");
    refuse({.lane = 7}, "lanes differ in their operands");
    refuse({.warp = 2}, "warps of a warpgroup differ in their operands");
    refuse({.other_bits = 1ull << 62}, "swizzle is not that of 128 bytes");
}

void refused_named_barriers() {
    check_refused([] { group_barrier(0, 64); }, "a named barrier's id is 1 to 15");
    check_refused([] { group_barrier(1, 40); }, "a named barrier of 40 threads");
    check_refused([] { group_barrier(1, 128); }, "a named barrier of 128 threads");
    check_refused(
        [] {
            if (thread_index() < 32)
                group_barrier(1, 64);
            else
                group_any(1, 64, true);
        },
        "group_barrier meets group_any");
    check_refused([] { group_barrier(1, thread_index() < 32 ? 64 : 96); }, "threads are counted differently", 96);
    check_refused(
        [] {
            if (thread_index() < 32) group_barrier(2, 64);
        },
        "named barrier 2: only 32 of 64 threads ever arrive");
    check_refused(
        [] {
            if (thread_index() % 32 < 9)
                registers_grow<240>();
            else
                warp_barrier();
        },
        "meets lanes of its warp at");
}

}  // namespace

const std::vector<Check>& hopper_checks() {
    static const std::vector<Check> checks = {
        {"mbarriers", mbarriers},
        {"a_new_mbarrier_has_ended_a_phase_of_parity_one", a_new_mbarrier_has_ended_a_phase_of_parity_one},
        {"tensor_loads", tensor_loads},
        {"tensor_loads_land_by_seed", tensor_loads_land_by_seed},
        {"warpgroup_products", warpgroup_products},
        {"named_barriers", named_barriers},
        {"refused_mbarriers", refused_mbarriers},
        {"refused_tensor_loads", refused_tensor_loads},
        {"refused_tensor_maps", refused_tensor_maps},
        {"refused_products", refused_products},
        {"refused_named_barriers", refused_named_barriers},
    };
    return checks;
}
