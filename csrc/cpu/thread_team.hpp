// A team of threads that lives for one call and shares out numbered items. Items are taken in order, one at a time;
// which thread takes which never changes a result, because no item reads what another of the same round writes.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace fastspade::cpu {

// Rounds are milliseconds apart, so a short spin usually saves the wake-up; after it the thread sleeps.
constexpr int spins = 2000;

template <class Value>
void wait_while(const std::atomic<Value>& atom, Value value) {
    for (int i = 0; i < spins; ++i) {
        if (atom.load(std::memory_order_acquire) != value) return;
#if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
#endif
    }
    while (atom.load(std::memory_order_acquire) == value) atom.wait(value, std::memory_order_acquire);
}

class ThreadTeam {
  public:
    explicit ThreadTeam(int threads) {
        workers_.reserve(static_cast<size_t>(std::max(0, threads - 1)));
        try {
            for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
        } catch (const std::system_error&) {
            // The system gives no more threads: those there are do all the work, to the same result.
        }
    }

    ~ThreadTeam() {
        stopping_.store(true, std::memory_order_release);
        round_.fetch_add(1, std::memory_order_acq_rel);
        round_.notify_all();
        for (auto& worker : workers_) worker.join();
    }

    ThreadTeam(const ThreadTeam&) = delete;
    ThreadTeam& operator=(const ThreadTeam&) = delete;

    int size() const { return static_cast<int>(workers_.size()) + 1; }

    // Runs body(item, thread) for every item in [0, count) and returns when all are done. The caller works too.
    // An exception thrown by an item is rethrown here, after all threads have stopped.
    void run(int64_t count, const std::function<void(int64_t, int)>& body) {
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

  private:
    void work(int thread) {
        uint32_t seen = 0;
        while (true) {
            wait_while(round_, seen);
            seen = round_.load(std::memory_order_acquire);
            if (stopping_.load(std::memory_order_acquire)) return;
            take_items(thread);
            if (busy_.fetch_sub(1, std::memory_order_acq_rel) == 1) busy_.notify_all();
        }
    }

    void take_items(int thread) {
        try {
            for (int64_t item; (item = next_.fetch_add(1, std::memory_order_relaxed)) < count_;) (*body_)(item, thread);
        } catch (...) {
            std::lock_guard<std::mutex> hold(failure_lock_);
            if (!failure_) failure_ = std::current_exception();
            next_.store(count_, std::memory_order_relaxed);
        }
    }

    std::vector<std::thread> workers_;
    const std::function<void(int64_t, int)>* body_ = nullptr;
    int64_t count_ = 0;
    std::atomic<int64_t> next_{0};
    std::atomic<uint32_t> round_{0};
    std::atomic<uint32_t> busy_{0};
    std::atomic<bool> stopping_{false};
    std::mutex failure_lock_;
    std::exception_ptr failure_;
};

}  // namespace fastspade::cpu
