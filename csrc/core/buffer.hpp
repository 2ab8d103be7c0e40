// A cache-line aligned array that only grows, so that the search allocates once and then reuses.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fastspade {

template <class T>
class Buffer {
  public:
    Buffer() = default;
    ~Buffer() { std::free(data_); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    Buffer(Buffer&& other) noexcept : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

    // Contents are not kept.
    T* reserve(int64_t count) {
        if (count > size_) {
            std::free(std::exchange(data_, nullptr));
            size_ = 0;
            const size_t wanted = static_cast<size_t>(count) * sizeof(T);
            const size_t alignment = wanted < huge_page ? 64 : huge_page;
            const size_t bytes = (wanted + alignment - 1) / alignment * alignment;
            data_ = static_cast<T*>(std::aligned_alloc(alignment, bytes));
            if (!data_) throw std::bad_alloc();
#if defined(__linux__)
            // The search walks through more memory than the processor keeps ordinary pages' addresses of. Only a wish.
            if (alignment == huge_page) madvise(data_, bytes, MADV_HUGEPAGE);
#endif
            size_ = count;
        }
        return data_;
    }
    T* data() { return data_; }
    const T* data() const { return data_; }
    T& operator[](int64_t i) { return data_[i]; }
    const T& operator[](int64_t i) const { return data_[i]; }

  private:
    static constexpr size_t huge_page = size_t{2} << 20;

    T* data_ = nullptr;
    int64_t size_ = 0;
};

}  // namespace fastspade
