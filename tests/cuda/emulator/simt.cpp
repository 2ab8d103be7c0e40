#include "simt.hpp"

#include <algorithm>
#include <stdexcept>

#include "machine.hpp"

namespace fastspade::emulate {

// One machine, one launch at a time: plain static storage costs the collectives nothing, thread-local storage does.
Machine machine;

std::string where(const Fibre& fibre) {
    return "block " + std::to_string(machine.block) + ", warp " + std::to_string(fibre.thread / 32) + ", lane " +
           std::to_string(fibre.thread % 32);
}

bool lands_at_once() {
    if (machine.seed <= 1) return machine.seed == 1;
    return machine.random() & 1u;
}

Fibre* next_ready_lane() {
    while (machine.next_lane < 32) {
        Fibre& fibre = *machine.fibres[static_cast<size_t>(machine.warp * 32 + machine.lanes[machine.next_lane++])];
        if (fibre.state == State::ready) return &fibre;
    }
    return nullptr;
}

// The next lane of the warp goes on at once: by way of the scheduler every switch would be two.
void give_way() {
    Fibre& fibre = *machine.current;
    Fibre* const next = machine.error ? nullptr : next_ready_lane();
    if (next) machine.current = next;
    fibre.context.switch_to(next ? next->context : machine.scheduler);
}

void check_shared(const void* address, size_t bytes, size_t alignment, const char* what) {
    const auto* const at = static_cast<const char*>(address);
    if (reinterpret_cast<uintptr_t>(at) % alignment != 0)
        throw std::runtime_error(std::string(what) + ": shared address is not " + std::to_string(alignment) + "-byte aligned, " +
                                 where(*machine.current));
    if (at < machine.shared || at + bytes > machine.shared + machine.shared_bytes)
        throw std::runtime_error(std::string(what) + ": address outside the block's shared memory, " + where(*machine.current));
}

namespace {

constexpr size_t stack_bytes = 128 << 10;
constexpr size_t guard_bytes = 4096;
constexpr unsigned char poison = 0xff;

std::mutex machine_in_use;

const char* name_of(Collective kind) {
    switch (kind) {
        case Collective::barrier:
            return "warp_barrier";
        case Collective::ballot:
            return "warp_ballot";
        case Collective::shuffle:
            return "warp_shuffle";
        case Collective::shuffle_xor:
            return "warp_shuffle_xor";
        case Collective::load_matrices:
            return "load_matrices";
        case Collective::multiply_half:
            return "multiply of halves";
        case Collective::multiply_bfloat16:
            return "multiply of bfloat16s";
        case Collective::product_half:
            return "multiply_async of halves";
        case Collective::product_bfloat16:
            return "multiply_async of bfloat16s";
        case Collective::product_fence:
            return "product_fence";
        case Collective::product_commit:
            return "product_commit";
        case Collective::product_wait:
            return "product_wait";
        case Collective::set_registers:
            return "registers_grow or registers_shrink";
        case Collective::none:
            break;
    }
    return "nothing";
}

void release_block_if_complete() {
    if (machine.at_barrier == 0 || machine.at_barrier < machine.alive) return;
    machine.at_barrier = 0;
    machine.any_result = machine.any;
    machine.any = false;
    for (int t = 0; t < machine.threads; ++t) {
        Fibre& fibre = *machine.fibres[static_cast<size_t>(t)];
        if (fibre.state == State::at_block) fibre.state = State::ready;
    }
}

const float* half_table() {
    static const std::vector<float> table = [] {
        std::vector<float> values(65536);
        for (uint32_t i = 0; i < 65536; ++i) values[i] = cuda::half_to_float(static_cast<uint16_t>(i));
        return values;
    }();
    return table.data();
}

struct HalfToFloat {
    const float* table = half_table();
    float operator()(uint32_t bits) const { return table[bits & 0xffffu]; }
};
struct BFloat16ToFloat {
    float operator()(uint32_t bits) const { return cuda::bits_float(bits << 16); }
};

// m16n8k16 with the fragment layouts of the PTX ISA: group = lane / 4, member = lane % 4.
template <class ToFloat>
void multiply_warp(const ToFloat to_float, Slot* const (&slots)[32]) {
    using Columns = float __attribute__((vector_size(16)));
    float a[16][16];
    Columns b[16][2], d[16][2];
    for (int lane = 0; lane < 32; ++lane) {
        const int group = lane / 4, member = lane % 4;
        const Slot& slot = *slots[lane];
        for (int high = 0; high < 2; ++high) {
            const int first = 2 * member + high;
            const auto half = [&](int word) { return to_float(slot.words[word] >> 16 * high); };
            a[group][first] = half(0);
            a[group + 8][first] = half(1);
            a[group][first + 8] = half(2);
            a[group + 8][first + 8] = half(3);
            b[first][group / 4][group % 4] = half(4);
            b[first + 8][group / 4][group % 4] = half(5);
            d[group][first / 4][first % 4] = slot.accumulators[high];
            d[group + 8][first / 4][first % 4] = slot.accumulators[2 + high];
        }
    }
    for (int m = 0; m < 16; ++m) {
        Columns left = d[m][0], right = d[m][1];
        for (int k = 0; k < 16; ++k) {
            left += a[m][k] * b[k][0];
            right += a[m][k] * b[k][1];
        }
        d[m][0] = left;
        d[m][1] = right;
    }
    for (int lane = 0; lane < 32; ++lane) {
        const int group = lane / 4, member = lane % 4;
        for (int high = 0; high < 2; ++high) {
            const int column = 2 * member + high;
            slots[lane]->accumulators[high] = d[group][column / 4][column % 4];
            slots[lane]->accumulators[2 + high] = d[group + 8][column / 4][column % 4];
        }
    }
}

void perform(Collective kind, Slot* const (&slots)[32]) {
    switch (kind) {
        case Collective::ballot: {
            uint64_t mask = 0;
            for (int lane = 0; lane < 32; ++lane) mask |= (slots[lane]->value & 1u) << lane;
            for (Slot* slot : slots) slot->value = mask;
            break;
        }
        case Collective::shuffle:
        case Collective::shuffle_xor: {
            std::array<uint64_t, 32> values;
            for (int lane = 0; lane < 32; ++lane) values[static_cast<size_t>(lane)] = slots[lane]->value;
            for (int lane = 0; lane < 32; ++lane) {
                const int source = kind == Collective::shuffle ? slots[lane]->lane & 31 : (lane ^ slots[lane]->lane) & 31;
                slots[lane]->value = values[static_cast<size_t>(source)];
            }
            break;
        }
        case Collective::load_matrices:
            for (int lane = 0; lane < 32; ++lane)
                for (int j = 0; j < 4; ++j)
                    std::memcpy(&slots[lane]->words[j],
                                static_cast<const char*>(slots[8 * j + lane / 4]->address) + 4 * (lane % 4), 4);
            break;
        case Collective::multiply_half:
            multiply_warp(HalfToFloat{}, slots);
            break;
        case Collective::multiply_bfloat16:
            multiply_warp(BFloat16ToFloat{}, slots);
            break;
        default:
            break;
    }
}

// Carries out a collective at which all lanes of a warp are. Apart from where they wait, which happens 31 times as often.
[[gnu::noinline]] void complete(Collective kind, Warp& warp, int first) {
    warp.arrived = 0;
    Slot* slots[32];
    for (int lane = 0; lane < 32; ++lane) {
        Fibre& member = *machine.fibres[static_cast<size_t>(first + lane)];
        slots[lane] = &member.slot;
        member.state = State::ready;
    }
    if (kind >= Collective::product_half && kind <= Collective::product_wait)
        perform_products(warp, first, slots, kind);
    else
        perform(kind, slots);
}

void enter() {
    Fibre& fibre = *machine.current;
    try {
        (*machine.body)();
        if (fibre.open > 0) throw std::runtime_error("asynchronous copies were never committed, " + where(fibre));
        check_warp_done(machine.warps[static_cast<size_t>(fibre.thread / 32)], fibre);
        if (!fibre.copies.empty()) throw std::runtime_error("asynchronous copies were never waited for, " + where(fibre));
    } catch (...) {
        machine.error = std::current_exception();
    }
    fibre.state = State::ended;
    --machine.alive;
    release_block_if_complete();
    give_way();
}

void run_block() {
    const uint64_t seed = machine.seed;
    std::mt19937_64& random = machine.random;
    const int threads = machine.threads, warps = threads / 32;
    while (static_cast<int>(machine.fibres.size()) < threads) {
        machine.fibres.push_back(std::make_unique<Fibre>());
        machine.fibres.back()->stack = std::make_unique_for_overwrite<char[]>(stack_bytes);
    }
    std::fill(machine.memory.begin(), machine.memory.end(), static_cast<char>(poison));
    machine.warps.assign(static_cast<size_t>(warps), Warp{});
    machine.alive = threads;
    machine.at_barrier = 0;
    machine.any = false;
    machine.error = nullptr;
    reset_async();
    for (int t = 0; t < threads; ++t) {
        Fibre& fibre = *machine.fibres[static_cast<size_t>(t)];
        fibre.thread = t;
        fibre.state = State::ready;
        fibre.copies.clear();
        fibre.groups.clear();
        fibre.open = 0;
        // Stacks start at different offsets: at equal ones, all would compete for the same few lines of the caches.
        fibre.context.start(fibre.stack.get(), stack_bytes - static_cast<size_t>(t % 64) * 320, enter);
    }
    std::vector<int> order(static_cast<size_t>(warps));
    for (int i = 0; i < warps; ++i) order[static_cast<size_t>(i)] = seed == 1 ? warps - 1 - i : i;
    for (int i = 0; i < 32; ++i) machine.lanes[static_cast<size_t>(i)] = seed == 1 ? 31 - i : i;
    while (machine.alive > 0) {
        if (seed > 1) {
            std::shuffle(order.begin(), order.end(), random);
            std::shuffle(machine.lanes.begin(), machine.lanes.end(), random);
        }
        bool ran = false;
        run_async();
        for (int t = 0; t < threads; ++t) {
            Fibre& fibre = *machine.fibres[static_cast<size_t>(t)];
            if (fibre.state == State::paused) fibre.state = State::ready;
        }
        for (int warp : order) {
            // A warp runs as far as it can: the widest gap between warps that barriers allow. Drawn orders sometimes stop
            // earlier.
            for (bool again = true; again;) {
                machine.warp = warp;
                machine.next_lane = 0;
                machine.current = next_ready_lane();
                again = machine.current != nullptr;
                if (again) machine.scheduler.switch_to(machine.current->context);  // back once no lane is left to run
                if (machine.error) std::rethrow_exception(machine.error);
                ran = ran || again;
                if (seed > 1 && random() % 64 == 0) break;
            }
        }
        if (!ran && machine.alive > 0 && !finish_one_load()) {
            // Block barriers open to those that are left, so some warp waits for lanes that ended or wait at a barrier.
            for (int t = 0; t < threads; ++t) {
                const Fibre& fibre = *machine.fibres[static_cast<size_t>(t)];
                const Warp& warp = machine.warps[static_cast<size_t>(t / 32)];
                if (fibre.state == State::at_warp)
                    throw std::runtime_error(std::string(name_of(warp.kind)) + ": only " + std::to_string(warp.arrived) +
                                             " of the warp's 32 lanes ever arrive; one waits in " + where(fibre));
            }
            for (int t = 0; t < threads; ++t) {
                const Fibre& fibre = *machine.fibres[static_cast<size_t>(t)];
                if (fibre.state == State::at_group || fibre.state == State::at_mbarrier) throw std::runtime_error(waiting(fibre));
            }
            throw std::logic_error("the emulated machine stands still");
        }
    }
    check_async_done();
    const auto untouched = [](char value) { return static_cast<unsigned char>(value) == poison; };
    if (!std::all_of(machine.memory.begin(), machine.memory.begin() + (machine.shared - machine.memory.data()), untouched) ||
        !std::all_of(
            machine.memory.begin() + (machine.shared - machine.memory.data()) + static_cast<std::ptrdiff_t>(machine.shared_bytes),
            machine.memory.end(), untouched))
        throw std::runtime_error("a write outside the block's shared memory, block " + std::to_string(machine.block));
}

}  // namespace

int thread_index() { return machine.current->thread; }
int block_index() { return machine.block; }
int block_count() { return machine.blocks; }
int block_threads() { return machine.threads; }
char* shared_memory() { return machine.shared; }
Slot& own_slot() { return machine.current->slot; }

bool block_rendezvous(bool voting, bool predicate) {
    if (machine.at_barrier > 0 && machine.voting != voting)
        throw std::runtime_error("block_barrier meets block_any, " + where(*machine.current));
    machine.voting = voting;
    machine.any |= predicate;
    ++machine.at_barrier;
    machine.current->state = State::at_block;
    release_block_if_complete();
    if (machine.current->state == State::at_block) give_way();
    return machine.any_result;
}

void warp_rendezvous(Collective kind) {
    Fibre& fibre = *machine.current;
    const int first = fibre.thread / 32 * 32;
    Warp& warp = machine.warps[static_cast<size_t>(fibre.thread / 32)];
    if (kind == Collective::load_matrices) check_shared(fibre.slot.address, 16, 16, "load_matrices");
    if (warp.arrived == 0)
        warp.kind = kind;
    else if (warp.kind != kind)
        throw std::runtime_error(std::string(name_of(kind)) + " meets lanes of its warp at " + name_of(warp.kind) + ", " +
                                 where(fibre));
    if (++warp.arrived == 32) return complete(kind, warp, first);
    fibre.state = State::at_warp;
    give_way();
}

float operand_value(bool bfloat16, uint32_t bits) { return bfloat16 ? BFloat16ToFloat{}(bits) : half_table()[bits & 0xffffu]; }

void copy_async(void* shared, const void* global, bool valid) {
    check_shared(shared, 16, 16, "copy_async");
    if (reinterpret_cast<uintptr_t>(global) % 16 != 0)
        throw std::runtime_error("copy_async: global address is not 16-byte aligned, " + where(*machine.current));
    Fibre& fibre = *machine.current;
    Copy copy{static_cast<char*>(shared), valid ? static_cast<const char*>(global) : nullptr, false};
    if (lands_at_once()) copy.land();
    fibre.copies.push_back(copy);
    ++fibre.open;
}

void copy_commit() {
    Fibre& fibre = *machine.current;
    fibre.groups.push_back(fibre.open);
    fibre.open = 0;
}

void copy_wait(int pending) {
    Fibre& fibre = *machine.current;
    if (static_cast<int>(fibre.groups.size()) <= pending) return;
    const auto last = fibre.groups.end() - pending;
    size_t count = 0;
    for (auto group = fibre.groups.begin(); group != last; ++group) count += *group;
    const auto landed = fibre.copies.begin() + static_cast<std::ptrdiff_t>(count);
    for (auto copy = fibre.copies.begin(); copy != landed; ++copy) copy->land();
    fibre.copies.erase(fibre.copies.begin(), landed);
    fibre.groups.erase(fibre.groups.begin(), last);
}

void run_grid(const std::function<void()>& body, int64_t blocks, int threads, size_t shared_bytes, uint64_t seed) {
    if (threads <= 0 || threads % 32 != 0 || threads > 1024)
        throw std::runtime_error("a block has " + std::to_string(threads) + " threads; it needs a multiple of 32 up to 1024");
    const std::lock_guard lock(machine_in_use);
    machine.body = &body;
    machine.blocks = static_cast<int>(blocks);
    machine.threads = threads;
    machine.shared_bytes = shared_bytes;
    machine.memory.resize(shared_bytes + 2 * guard_bytes + 1024);
    machine.shared = machine.memory.data() + guard_bytes;
    machine.shared += (1024 - reinterpret_cast<uintptr_t>(machine.shared) % 1024) % 1024;  // as on the device
    machine.seed = seed;
    machine.random.seed(seed);
    std::vector<int> order(static_cast<size_t>(blocks));
    for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int>(seed == 1 ? order.size() - 1 - i : i);
    if (seed > 1) std::shuffle(order.begin(), order.end(), machine.random);
    for (int block : order) {
        machine.block = block;
        run_block();
    }
}

}  // namespace fastspade::emulate
