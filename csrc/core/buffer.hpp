// A cache-line aligned array that only grows, so that the search allocates once and then reuses.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace fastspade {

template <class T>
class Buffer {
  public:
    // Contents are not kept.
    T* reserve(int64_t count) {
        if (count > size_ || !data_) {
            constexpr size_t line = 64;
            const size_t bytes = (static_cast<size_t>(count) * sizeof(T) + line - 1) / line * line;
            data_.reset();  // before there is more, so that both are never there at once
            data_.reset(static_cast<T*>(std::aligned_alloc(line, bytes)));
            size_ = data_ ? count : 0;
            if (!data_) throw std::bad_alloc();
        }
        return data();
    }
    T* data() { return data_.get(); }
    const T* data() const { return data_.get(); }
    T& operator[](int64_t i) { return data_[static_cast<size_t>(i)]; }
    const T& operator[](int64_t i) const { return data_[static_cast<size_t>(i)]; }

  private:
    struct Free {
        void operator()(T* data) const { std::free(data); }
    };
    std::unique_ptr<T[], Free> data_;
    int64_t size_ = 0;
};

}  // namespace fastspade
