// A team of threads that lives for one call and shares out numbered items. Items are taken in order, one at a time;
// which thread takes which never changes a result, because no item reads what another of the same round writes.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace fastspade::cpu {

class ThreadTeam {
  public:
    explicit ThreadTeam(int threads);
    ~ThreadTeam();
    ThreadTeam(const ThreadTeam&) = delete;
    ThreadTeam& operator=(const ThreadTeam&) = delete;

    int size() const { return static_cast<int>(workers_.size()) + 1; }

    // Runs body(item, thread) for every item in [0, count) and returns when all are done. The caller works too.
    // An exception thrown by an item is rethrown here, after all threads have stopped.
    void run(int64_t count, const std::function<void(int64_t, int)>& body);

  private:
    void work(int thread);
    void take_items(int thread);

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
