// What the checks of the emulated machine share.
#pragma once

#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/device.cuh"

using namespace fastspade::cuda;
using fastspade::emulate::run_grid;

struct Check {
    const char* name;
    void (*run)();
};

const std::vector<Check>& hopper_checks();  // selftest_hopper.cpp

constexpr uint64_t seeds[] = {0, 1, 2, 3};

inline void check(bool held, const std::string& what) {
    if (!held) throw std::runtime_error(what);
}

template <class Value>
void check_equal(const std::vector<Value>& found, const std::vector<Value>& wanted, const std::string& what) {
    check(found.size() == wanted.size(), what + ": lengths differ");
    for (size_t i = 0; i < found.size(); ++i)
        check(found[i] == wanted[i],
              what + ": element " + std::to_string(i) + " is " + std::to_string(found[i]) + ", not " + std::to_string(wanted[i]));
}

// A kernel that computes `wanted` must do so in every order of threads; its faulty twin must fail to in one at least.
template <class Value>
void check_pair(const std::function<std::vector<Value>(uint64_t)>& sound,
                const std::function<std::vector<Value>(uint64_t)>& faulty, const std::vector<Value>& wanted) {
    bool found_out = false;
    for (uint64_t seed : seeds) {
        check_equal(sound(seed), wanted, "sound kernel, seed " + std::to_string(seed));
        found_out |= faulty(seed) != wanted;
    }
    check(found_out, "the faulty kernel gave the right result in every order");
}

inline void check_refused(const std::function<void()>& kernel, const std::string& needle, int threads = 64,
                          size_t shared_bytes = 1024) {
    for (uint64_t seed : seeds) {
        std::string message = "nothing was thrown";
        try {
            run_grid(kernel, 1, threads, shared_bytes, seed);
        } catch (const std::exception& error) {
            message = error.what();
        }
        check(message.find(needle) != std::string::npos,
              "seed " + std::to_string(seed) + ": wanted an error with '" + needle + "', got: " + message);
    }
    // The machine must be as good as new afterwards.
    int sum = 0;
    run_grid(
        [&] {
            block_barrier();
            atomic_add(&sum, 1);
        },
        2, 32, 0, 0);
    check(sum == 64, "a launch after a refused one did not run all threads");
}
