#include "simt_hopper.hpp"

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "machine.hpp"

namespace fastspade::emulate {

namespace {

constexpr uint64_t map_mark = 0x70616d20726f736eull;
constexpr uint64_t mbarrier_mark = 0x7265697272616200ull;  // kept in the barrier's own word, so that overwriting it shows
constexpr uint32_t window = 1024;                          // where dynamic shared memory starts in the shared window
constexpr int most_columns = 128;                          // of a product

[[noreturn]] void refuse(const std::string& what) { throw std::runtime_error(what + ", " + where(*machine.current)); }

// Bits 4 to 6 of a shared address, exchanged by bits 7 to 9.
uint32_t swizzled(uint32_t address) { return address ^ (address >> 7 & 7u) << 4; }

Mbarrier& mbarrier_at(size_t offset) {
    const auto found = machine.async.mbarriers.find(offset);
    if (found == machine.async.mbarriers.end()) refuse("an mbarrier that was never initialised");
    uint64_t word;
    std::memcpy(&word, machine.shared + offset, 8);
    if (word != mbarrier_mark) refuse("an mbarrier's word was overwritten");
    return found->second;
}

size_t offset_of(const uint64_t* barrier) {
    check_shared(barrier, 8, 8, "mbarrier");
    return static_cast<size_t>(reinterpret_cast<const char*>(barrier) - machine.shared);
}

void settle(size_t offset, Mbarrier& barrier) {
    if (barrier.missing > 0 || barrier.bytes != 0) return;
    const uint32_t parity = barrier.phases++ & 1u;
    barrier.missing = barrier.arrivals;
    for (int t = 0; t < machine.threads; ++t) {
        Fibre& fibre = *machine.fibres[static_cast<size_t>(t)];
        if (fibre.state == State::at_mbarrier && fibre.mbarrier == offset && fibre.parity == parity) fibre.state = State::ready;
    }
}

struct Box {
    const char* data;
    int dimensions;
    int64_t size[4], stride[4];  // stride in bytes
    int box[4];
    int64_t bytes;
};

Box decoded(const TensorMap& map) {
    if (map.word[0] != map_mark) refuse("tensor_load: no tensor map");
    Box box{};
    box.data = reinterpret_cast<const char*>(map.word[1]);
    box.dimensions = static_cast<int>(map.word[2]);
    box.bytes = 2;
    for (int d = 0; d < 4; ++d) {
        box.size[d] = static_cast<int64_t>(map.word[3 + d]);
        box.stride[d] = static_cast<int64_t>(map.word[7 + d]);
        box.box[d] = static_cast<int>(map.word[11 + d]);
        box.bytes *= box.box[d];
    }
    return box;
}

void land(const TensorLoad& load) {
    const Box box = decoded(load.map);
    const int64_t rows = box.bytes / (2 * box.box[0]);
    const auto to = static_cast<uint32_t>(load.to - machine.shared);
    for (int64_t row = 0; row < rows; ++row) {
        const int64_t in_box[4] = {0, row % box.box[1], row / box.box[1] % box.box[2], row / box.box[1] / box.box[2]};
        const char* from = box.data;
        bool inside = true;
        for (int d = 1; d < 4; ++d) {
            const int64_t at = load.corner[static_cast<size_t>(d)] + in_box[d];
            inside = inside && at >= 0 && at < box.size[d];
            from += at * box.stride[d];
        }
        for (int x = 0; x < box.box[0]; ++x) {
            const int64_t at = load.corner[0] + static_cast<int64_t>(x);
            uint16_t value = 0;
            if (inside && at >= 0 && at < box.size[0]) std::memcpy(&value, from + at * 2, 2);
            std::memcpy(machine.shared + swizzled(to + static_cast<uint32_t>(row) * 128 + static_cast<uint32_t>(x) * 2), &value,
                        2);
        }
    }
    Mbarrier& barrier = mbarrier_at(load.mbarrier);
    barrier.bytes -= box.bytes;
    settle(load.mbarrier, barrier);
}

void land_at(size_t index) {
    const TensorLoad load = machine.async.loads[index];
    machine.async.loads.erase(machine.async.loads.begin() + static_cast<std::ptrdiff_t>(index));
    land(load);
}

// Rows [first, first + count) of an operand, 16 channels each, by the descriptor's rules.
void read_operand(uint64_t descriptor, bool bfloat16, int first, int count, float (*to)[16]) {
    const auto start = static_cast<uint32_t>(descriptor & 0x3fffu) << 4;
    const auto group_stride = static_cast<uint32_t>(descriptor >> 32 & 0x3fffu) << 4;
    if (descriptor >> 62 != 1) refuse("multiply_async: the descriptor's swizzle is not that of 128 bytes");
    if (start % 1024 >= 128 || group_stride % 1024 != 0) refuse("multiply_async: groups of eight rows are not 1024-byte aligned");
    for (int i = 0; i < count; ++i) {
        const uint32_t row =
            start + static_cast<uint32_t>((first + i) / 8) * group_stride + static_cast<uint32_t>((first + i) % 8) * 128;
        for (uint32_t k = 0; k < 16; ++k) {
            const uint32_t at = swizzled(row + 2 * k);
            if (at < window || at + 2 > window + machine.shared_bytes)
                refuse("multiply_async: operand outside the block's shared memory");
            uint16_t bits;
            std::memcpy(&bits, machine.shared + (at - window), 2);
            to[i][k] = operand_value(bfloat16, bits);
        }
    }
}

// A warp's quarter: 16 rows, with the accumulator layout of m64nNk16.
void carry_out(const Product& product, int warp) {
    using Columns = float __attribute__((vector_size(16)));
    static float left[16][16], right[most_columns][16];
    static Columns by_channel[16][most_columns / 4], row[most_columns / 4];
    const int columns = product.columns;
    read_operand(product.left, product.bfloat16, 16 * warp, 16, left);
    read_operand(product.right, product.bfloat16, 0, columns, right);
    for (int k = 0; k < 16; ++k)
        for (int n = 0; n < columns; ++n) by_channel[k][n / 4][n % 4] = right[n][k];
    for (int m = 0; m < 16; ++m) {
        const auto element = [&](int n) -> float& {
            return product.accumulators[static_cast<size_t>(m % 8 * 4 + n % 8 / 2)][n / 8 * 4 + m / 8 * 2 + n % 2];
        };
        for (int n = 0; n < columns; ++n) row[n / 4][n % 4] = product.accumulate ? element(n) : 0.0f;
        for (int k = 0; k < 16; ++k)
            for (int n = 0; n < columns / 4; ++n) row[n] += left[m][k] * by_channel[k][n];
        for (int n = 0; n < columns; ++n) element(n) = row[n / 4][n % 4];
    }
}

void carry_out_until(WarpgroupWork& work, size_t count, int warp) {
    for (; work.done < count; ++work.done) carry_out(work.products[work.done], warp % 4);
}

}  // namespace

TensorMap encode_tensor_map(const TensorBox& box) {
    const auto fail = [](const std::string& what) { throw std::runtime_error("tensor map: " + what); };
    TensorMap map{};
    if (reinterpret_cast<uintptr_t>(box.data) % 16 != 0) fail("the array is not 16-byte aligned");
    if (box.dimensions < 1 || box.dimensions > 4) fail("1 to 4 dimensions");
    if (box.stride[0] != 1) fail("the fastest dimension's stride is not 1");
    if (box.box[0] * 2 != 128) fail("a swizzled box's rows are not 128 bytes");
    map.word[0] = map_mark;
    map.word[1] = reinterpret_cast<uint64_t>(box.data);
    map.word[2] = static_cast<uint64_t>(box.dimensions);
    for (int d = 0; d < 4; ++d) {
        const bool used = d < box.dimensions;
        const int64_t size = used ? box.size[d] : 1, stride = used ? box.stride[d] * 2 : 0;
        const int side = used ? box.box[d] : 1;
        if (size < 1 || size > 1ll << 32) fail("size " + std::to_string(size));
        if (d > 0 && (stride % 16 != 0 || stride >= 1ll << 40)) fail("stride of " + std::to_string(stride) + " bytes");
        if (side < 1 || side > 256) fail("box of " + std::to_string(side));
        map.word[3 + d] = static_cast<uint64_t>(size);
        map.word[7 + d] = static_cast<uint64_t>(stride);
        map.word[11 + d] = static_cast<uint64_t>(side);
    }
    return map;
}

uint32_t shared_address(const void* pointer) {
    return window + static_cast<uint32_t>(static_cast<const char*>(pointer) - machine.shared);
}

// --- mbarriers

void mbarrier_init(uint64_t* barrier, uint32_t arrivals) {
    const size_t offset = offset_of(barrier);
    if (arrivals < 1 || arrivals >= 1u << 20) refuse("an mbarrier of " + std::to_string(arrivals) + " arrivals");
    if (machine.async.mbarriers.count(offset)) refuse("an mbarrier initialised twice");
    *barrier = mbarrier_mark;
    machine.async.mbarriers[offset] = {arrivals, arrivals, 0, 0, false};
}

void mbarrier_init_fence() {
    for (auto& [offset, barrier] : machine.async.mbarriers) barrier.fenced = true;
}

void mbarrier_arrive(uint64_t* barrier, uint32_t bytes) {
    const size_t offset = offset_of(barrier);
    Mbarrier& at = mbarrier_at(offset);
    if (at.missing == 0) refuse("more arrivals at an mbarrier than its phase has");
    at.bytes += bytes;
    --at.missing;
    settle(offset, at);
}

void mbarrier_wait(uint64_t* barrier, uint32_t parity) {
    const size_t offset = offset_of(barrier);
    if (parity > 1) refuse("an mbarrier's parity is 0 or 1");
    Fibre& fibre = *machine.current;
    while ((mbarrier_at(offset).phases & 1u) == parity) {
        fibre.state = State::at_mbarrier;
        fibre.mbarrier = offset;
        fibre.parity = parity;
        give_way();
    }
}

// --- bulk tensor copies

void tensor_load(void* shared, const TensorMap& map, uint64_t* barrier, int dimensions, const int32_t (&corner)[4]) {
    const Box box = decoded(map);
    if (box.dimensions != dimensions) refuse("tensor_load: the map has " + std::to_string(box.dimensions) + " dimensions");
    check_shared(shared, static_cast<size_t>(box.bytes), 1024, "tensor_load");
    const size_t offset = offset_of(barrier);
    if (!mbarrier_at(offset).fenced) refuse("tensor_load: the mbarrier's initialisation was not fenced");
    machine.async.loads.push_back({static_cast<char*>(shared), map, {corner[0], corner[1], corner[2], corner[3]}, offset});
    if (lands_at_once()) land_at(machine.async.loads.size() - 1);
}

// --- named barriers

bool group_rendezvous(int id, int threads, bool voting, bool predicate) {
    if (id < 1 || id > 15) refuse("a named barrier's id is 1 to 15");
    if (threads % 32 != 0 || threads < 32 || threads > machine.threads)
        refuse("a named barrier of " + std::to_string(threads) + " threads");
    GroupBarrier& barrier = machine.async.groups[static_cast<size_t>(id)];
    if (barrier.arrived > 0 && barrier.voting != voting) refuse("group_barrier meets group_any");
    if (barrier.arrived > 0 && barrier.threads != threads) refuse("a named barrier's threads are counted differently");
    barrier.voting = voting;
    barrier.threads = threads;
    barrier.any |= predicate;
    Fibre& fibre = *machine.current;
    if (++barrier.arrived < threads) {
        fibre.state = State::at_group;
        fibre.group = id;
        give_way();
        return barrier.any_result;
    }
    barrier.arrived = 0;
    barrier.any_result = barrier.any;
    barrier.any = false;
    for (int t = 0; t < machine.threads; ++t) {
        Fibre& member = *machine.fibres[static_cast<size_t>(t)];
        if (member.state == State::at_group && member.group == id) member.state = State::ready;
    }
    return barrier.any_result;
}

// --- warpgroup products

void product_wait(int pending) {
    Fibre& fibre = *machine.current;
    const WarpgroupWork& work = machine.warps[static_cast<size_t>(fibre.thread / 32)].work;
    if (machine.seed != 1 && work.done < work.products.size()) {  // others run while the products are still under way
        fibre.state = State::paused;
        give_way();
    }
    fibre.slot.lane = pending;
    warp_rendezvous(Collective::product_wait);
}

void perform_products(Warp& warp, int first_thread, Slot* const (&slots)[32], Collective kind) {
    WarpgroupWork& work = warp.work;
    const int index = first_thread / 32;
    switch (kind) {
        case Collective::product_fence:
            work.fenced = true;
            return;
        case Collective::product_commit:
            work.groups.push_back(work.open);
            work.open = 0;
            return;
        case Collective::product_wait: {
            const int pending = slots[0]->lane;
            if (static_cast<int>(work.groups.size()) <= pending) return;
            const auto last = work.groups.end() - pending;
            size_t count = 0;
            for (auto group = work.groups.begin(); group != last; ++group) count += *group;
            carry_out_until(work, count, index);
            work.products.erase(work.products.begin(), work.products.begin() + static_cast<std::ptrdiff_t>(count));
            work.done -= count;
            work.groups.erase(work.groups.begin(), last);
            if (work.products.empty()) work.fenced = false;  // whoever waited for all is about to use the results
            return;
        }
        default:
            break;
    }
    if (!work.fenced) refuse("multiply_async without a product_fence since the accumulators were last used");
    Product product{
        kind == Collective::product_bfloat16, slots[0]->value != 0, slots[0]->lane, slots[0]->left, slots[0]->right, {}};
    for (int lane = 0; lane < 32; ++lane) {
        if (slots[lane]->left != product.left || slots[lane]->right != product.right ||
            (slots[lane]->value != 0) != product.accumulate)
            refuse("multiply_async: lanes differ in their operands");
        product.accumulators[static_cast<size_t>(lane)] = slots[lane]->accumulators;
    }
    auto& issued = machine.async.issued;
    const auto group = static_cast<size_t>(index / 4);
    if (issued.size() <= group) issued.resize(group + 1);
    if (work.issued < static_cast<int64_t>(issued[group].size())) {
        if (issued[group][static_cast<size_t>(work.issued)] != std::array{product.left, product.right})
            refuse("multiply_async: warps of a warpgroup differ in their operands");
    } else {
        issued[group].push_back({product.left, product.right});
    }
    ++work.issued;
    work.products.push_back(product);
    ++work.open;
    if (lands_at_once()) carry_out_until(work, work.products.size(), index);
}

// --- the scheduler's hooks

void reset_async() { machine.async = AsyncUnits{}; }

void run_async() {
    if (machine.seed <= 1) return;
    std::vector<TensorLoad>& loads = machine.async.loads;
    while (!loads.empty() && machine.random() % 2 == 0) land_at(machine.random() % loads.size());
    for (size_t w = 0; w < machine.warps.size(); ++w) {
        WarpgroupWork& work = machine.warps[w].work;
        if (work.done < work.products.size() && machine.random() % 4 == 0)
            carry_out_until(work, work.done + 1, static_cast<int>(w));
    }
}

bool finish_one_load() {
    if (machine.async.loads.empty()) return false;
    land_at(machine.seed > 1 ? machine.random() % machine.async.loads.size() : 0);
    return true;
}

std::string waiting(const Fibre& fibre) {
    if (fibre.state == State::at_group) {
        const GroupBarrier& barrier = machine.async.groups[static_cast<size_t>(fibre.group)];
        return "named barrier " + std::to_string(fibre.group) + ": only " + std::to_string(barrier.arrived) + " of " +
               std::to_string(barrier.threads) + " threads ever arrive; one waits in " + where(fibre);
    }
    const Mbarrier& barrier = machine.async.mbarriers.at(fibre.mbarrier);
    return "mbarrier_wait: the phase of parity " + std::to_string(fibre.parity) + " never ends, " +
           std::to_string(barrier.missing) + " arrivals and " + std::to_string(barrier.bytes) +
           " bytes are missing; one waits in " + where(fibre);
}

void check_async_done() {
    if (!machine.async.loads.empty())
        throw std::runtime_error("bulk copies were still under way when block " + std::to_string(machine.block) + " ended");
}

void check_warp_done(const Warp& warp, const Fibre& fibre) {
    if (warp.work.open > 0) throw std::runtime_error("products were never committed, " + where(fibre));
    if (!warp.work.products.empty()) throw std::runtime_error("products were never waited for, " + where(fibre));
}

}  // namespace fastspade::emulate
