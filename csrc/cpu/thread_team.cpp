#include "cpu/thread_team.hpp"

#include <algorithm>
#include <system_error>

namespace fastspade::cpu {

namespace {

// Rounds are milliseconds apart, so a short spin usually saves the wake-up; after it the thread sleeps.
constexpr int spins = 2000;

void relax() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

template <class Value>
void wait_while(const std::atomic<Value>& atom, Value value) {
    for (int i = 0; i < spins; ++i) {
        if (atom.load(std::memory_order_acquire) != value) return;
        relax();
    }
    while (atom.load(std::memory_order_acquire) == value) atom.wait(value, std::memory_order_acquire);
}

}  // namespace

ThreadTeam::ThreadTeam(int threads) {
    workers_.reserve(static_cast<size_t>(std::max(0, threads - 1)));
    try {
        for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
    } catch (const std::system_error&) {
        // The system gives no more threads: those there are do all the work, to the same result.
    }
}

ThreadTeam::~ThreadTeam() {
    stopping_.store(true, std::memory_order_release);
    round_.fetch_add(1, std::memory_order_acq_rel);
    round_.notify_all();
    for (auto& worker : workers_) worker.join();
}

void ThreadTeam::take_items(int thread) {
    try {
        for (int64_t item; (item = next_.fetch_add(1, std::memory_order_relaxed)) < count_;) (*body_)(item, thread);
    } catch (...) {
        std::lock_guard<std::mutex> hold(failure_lock_);
        if (!failure_) failure_ = std::current_exception();
        next_.store(count_, std::memory_order_relaxed);
    }
}

void ThreadTeam::work(int thread) {
    uint32_t seen = 0;
    while (true) {
        wait_while(round_, seen);
        seen = round_.load(std::memory_order_acquire);
        if (stopping_.load(std::memory_order_acquire)) return;
        take_items(thread);
        if (busy_.fetch_sub(1, std::memory_order_acq_rel) == 1) busy_.notify_all();
    }
}

void ThreadTeam::run(int64_t count, const std::function<void(int64_t, int)>& body) {
    if (count <= 0) return;
    body_ = &body;
    count_ = count;
    next_.store(0, std::memory_order_relaxed);
    busy_.store(static_cast<uint32_t>(workers_.size()), std::memory_order_relaxed);
    if (!workers_.empty()) {
        round_.fetch_add(1, std::memory_order_acq_rel);
        round_.notify_all();
    }
    take_items(0);
    for (uint32_t busy; (busy = busy_.load(std::memory_order_acquire)) != 0;) wait_while(busy_, busy);
    if (failure_) {
        auto failure = failure_;
        failure_ = nullptr;
        std::rethrow_exception(failure);
    }
}

}  // namespace fastspade::cpu
