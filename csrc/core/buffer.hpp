// A cache-line aligned array that only grows, so that the search allocates once and then reuses.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <utility>

#include "core/block_cache.hpp"

namespace fastspade {

template <class T>
class Buffer {
  public:
    Buffer() = default;
    ~Buffer() { release(); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    Buffer(Buffer&& other) noexcept : block_(std::exchange(other.block_, {})), size_(std::exchange(other.size_, 0)) {}

    // Contents are not kept.
    T* reserve(int64_t count) {
        if (count > size_) {
            release();
            constexpr size_t line = 64;
            const size_t wanted = static_cast<size_t>(count) * sizeof(T);
            if (wanted < block_step) {
                block_ = {std::aligned_alloc(line, (wanted + line - 1) / line * line), 0};
                if (!block_.data) throw std::bad_alloc();
            } else {
                block_ = take_block(wanted);
            }
            size_ = count;
        }
        return data();
    }
    T* data() { return static_cast<T*>(block_.data); }
    const T* data() const { return static_cast<const T*>(block_.data); }
    T& operator[](int64_t i) { return data()[i]; }
    const T& operator[](int64_t i) const { return data()[i]; }

  private:
    void release() {
        const Block block = std::exchange(block_, {});
        size_ = 0;
        if (block.bytes)
            give_block(block);
        else
            std::free(block.data);
    }

    Block block_;  // with 0 bytes: a small one of the common heap
    int64_t size_ = 0;
};

}  // namespace fastspade
