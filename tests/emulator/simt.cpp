#include "simt.hpp"

#include <algorithm>
#include <array>
#include <exception>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "fibre.hpp"

namespace fastspade::emulate {

namespace {

constexpr size_t stack_bytes = 128 << 10;
constexpr size_t guard_bytes = 4096;
constexpr unsigned char poison = 0xff;

struct Copy {
    char* to;
    const char* from;
    bool valid;
};

enum class State { ready, at_warp, at_block, ended };

struct Fibre {
    Context context;
    std::unique_ptr<char[]> stack;
    int thread = 0;
    State state = State::ready;
    Slot slot;
    std::vector<Copy> open;                 // copies since the last commit
    std::vector<std::vector<Copy>> groups;  // committed, not yet landed
};

struct Warp {
    Collective kind = Collective::none;
    int arrived = 0;
};

struct Machine {
    const std::function<void()>* body = nullptr;
    int block = 0, blocks = 0, threads = 0;
    std::vector<std::unique_ptr<Fibre>> fibres;
    std::vector<Warp> warps;
    Fibre* current = nullptr;
    Context scheduler;
    std::vector<char> memory;
    char* shared = nullptr;
    size_t shared_bytes = 0;
    int alive = 0, at_barrier = 0;
    bool any = false, any_result = false;
    std::exception_ptr error;
};

thread_local Machine machine;

std::string where(const Fibre& fibre) {
    return "block " + std::to_string(machine.block) + ", thread " + std::to_string(fibre.thread);
}

void give_way() {
    Fibre& fibre = *machine.current;
    fibre.context.switch_to(machine.scheduler);
}

void release_block_if_complete() {
    if (machine.at_barrier == 0 || machine.at_barrier < machine.alive) return;
    machine.at_barrier = 0;
    machine.any_result = machine.any;
    machine.any = false;
    for (auto& fibre : machine.fibres)
        if (fibre->state == State::at_block) fibre->state = State::ready;
}

void check_shared(const void* address, size_t bytes, const char* what) {
    const auto* const at = static_cast<const char*>(address);
    if (reinterpret_cast<uintptr_t>(at) % 16 != 0)
        throw std::runtime_error(std::string(what) + ": shared address is not 16-byte aligned, " + where(*machine.current));
    if (at < machine.shared || at + bytes > machine.shared + machine.shared_bytes)
        throw std::runtime_error(std::string(what) + ": address outside the block's shared memory, " + where(*machine.current));
}

const float* half_table() {
    static const std::vector<float> table = [] {
        std::vector<float> values(65536);
        for (uint32_t i = 0; i < 65536; ++i) values[i] = cuda::half_to_float(static_cast<uint16_t>(i));
        return values;
    }();
    return table.data();
}

float element(Collective kind, uint32_t word, int high, const float* halves) {
    const auto bits = static_cast<uint16_t>(high ? word >> 16 : word);
    return kind == Collective::multiply_half ? halves[bits] : cuda::bfloat16_to_float(bits);
}

// m16n8k16 with the fragment layouts of the PTX ISA: group = lane / 4, member = lane % 4.
void multiply_warp(Collective kind, Slot* const (&slots)[32]) {
    const float* const halves = half_table();
    float a[16][16], b[16][8], d[16][8];
    for (int lane = 0; lane < 32; ++lane) {
        const int group = lane / 4, member = lane % 4;
        const Slot& slot = *slots[lane];
        for (int high = 0; high < 2; ++high) {
            for (int i = 0; i < 4; ++i)
                a[group + 8 * (i & 1)][2 * member + high + 8 * (i >> 1)] = element(kind, slot.words[i], high, halves);
            for (int i = 0; i < 2; ++i) b[2 * member + high + 8 * i][group] = element(kind, slot.words[4 + i], high, halves);
        }
        for (int i = 0; i < 4; ++i) d[group + 8 * (i >> 1)][2 * member + (i & 1)] = slot.accumulators[i];
    }
    for (int m = 0; m < 16; ++m)
        for (int k = 0; k < 16; ++k)
            for (int n = 0; n < 8; ++n) d[m][n] += a[m][k] * b[k][n];
    for (int lane = 0; lane < 32; ++lane)
        for (int i = 0; i < 4; ++i) slots[lane]->accumulators[i] = d[lane / 4 + 8 * (i >> 1)][2 * (lane % 4) + (i & 1)];
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
                const int source = kind == Collective::shuffle ? slots[lane]->lane & 31 : lane ^ slots[lane]->lane;
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
        case Collective::multiply_bfloat16: multiply_warp(kind, slots); break;
        case Collective::barrier:
        case Collective::none: break;
    }
}

void enter() {
    Fibre& fibre = *machine.current;
    try {
        (*machine.body)();
        for (const auto& group : fibre.groups)
            if (!group.empty()) throw std::runtime_error("asynchronous copies were never waited for, " + where(fibre));
        if (!fibre.open.empty()) throw std::runtime_error("asynchronous copies were never committed, " + where(fibre));
    } catch (...) {
        machine.error = std::current_exception();
    }
    fibre.state = State::ended;
    --machine.alive;
    release_block_if_complete();
    give_way();
}

void run_block(std::mt19937_64& random, uint64_t seed) {
    const int threads = machine.threads, warps = threads / 32;
    while (static_cast<int>(machine.fibres.size()) < threads) {
        machine.fibres.push_back(std::make_unique<Fibre>());
        machine.fibres.back()->stack = std::make_unique<char[]>(stack_bytes);
    }
    std::fill(machine.memory.begin(), machine.memory.end(), static_cast<char>(poison));
    machine.warps.assign(static_cast<size_t>(warps), Warp{});
    machine.alive = threads;
    machine.at_barrier = 0;
    machine.any = false;
    machine.error = nullptr;
    for (int t = 0; t < threads; ++t) {
        Fibre& fibre = *machine.fibres[static_cast<size_t>(t)];
        fibre.thread = t;
        fibre.state = State::ready;
        fibre.open.clear();
        fibre.groups.clear();
        fibre.context.start(fibre.stack.get(), stack_bytes, enter);
    }
    std::vector<int> order(static_cast<size_t>(warps)), lanes(32);
    for (int i = 0; i < warps; ++i) order[static_cast<size_t>(i)] = seed == 1 ? warps - 1 - i : i;
    for (int i = 0; i < 32; ++i) lanes[static_cast<size_t>(i)] = seed == 1 ? 31 - i : i;
    while (machine.alive > 0) {
        if (seed > 1) {
            std::shuffle(order.begin(), order.end(), random);
            std::shuffle(lanes.begin(), lanes.end(), random);
        }
        bool ran = false;
        for (int warp : order) {
            // A warp runs as far as it can: the widest gap between warps that barriers allow. Drawn orders sometimes stop
            // earlier.
            for (bool again = true; again;) {
                again = false;
                for (int lane : lanes) {
                    Fibre& fibre = *machine.fibres[static_cast<size_t>(warp * 32 + lane)];
                    if (fibre.state != State::ready) continue;
                    machine.current = &fibre;
                    machine.scheduler.switch_to(fibre.context);
                    if (machine.error) std::rethrow_exception(machine.error);
                    again = ran = true;
                }
                if (seed > 1 && random() % 64 == 0) break;
            }
        }
        if (!ran && machine.alive > 0) {
            for (auto& fibre : machine.fibres)
                if (fibre->state == State::at_warp)
                    throw std::runtime_error("a warp waits for lanes that never come, " + where(*fibre));
            throw std::runtime_error("threads wait at a block barrier that others never reach, block " + std::to_string(machine.block));
        }
    }
    const auto untouched = [](char value) { return static_cast<unsigned char>(value) == poison; };
    if (!std::all_of(machine.memory.begin(), machine.memory.begin() + (machine.shared - machine.memory.data()), untouched) ||
        !std::all_of(machine.memory.begin() + (machine.shared - machine.memory.data()) + static_cast<std::ptrdiff_t>(machine.shared_bytes),
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

bool block_rendezvous(bool predicate) {
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
    if (kind == Collective::load_matrices) check_shared(fibre.slot.address, 16, "load_matrices");
    if (warp.arrived == 0)
        warp.kind = kind;
    else if (warp.kind != kind)
        throw std::runtime_error("lanes of one warp meet at different collectives, " + where(fibre));
    if (++warp.arrived < 32) {
        fibre.state = State::at_warp;
        give_way();
        return;
    }
    warp.arrived = 0;
    Slot* slots[32];
    for (int lane = 0; lane < 32; ++lane) {
        Fibre& member = *machine.fibres[static_cast<size_t>(first + lane)];
        slots[lane] = &member.slot;
        member.state = State::ready;
    }
    perform(kind, slots);
}

void copy_async(void* shared, const void* global, bool valid) {
    check_shared(shared, 16, "copy_async");
    if (reinterpret_cast<uintptr_t>(global) % 16 != 0)
        throw std::runtime_error("copy_async: global address is not 16-byte aligned, " + where(*machine.current));
    machine.current->open.push_back({static_cast<char*>(shared), static_cast<const char*>(global), valid});
}

void copy_commit() {
    Fibre& fibre = *machine.current;
    fibre.groups.push_back(std::move(fibre.open));
    fibre.open.clear();
}

void copy_wait(int pending) {
    Fibre& fibre = *machine.current;
    while (static_cast<int>(fibre.groups.size()) > pending) {
        for (const Copy& copy : fibre.groups.front()) {
            if (copy.valid)
                std::memcpy(copy.to, copy.from, 16);
            else
                std::memset(copy.to, 0, 16);
        }
        fibre.groups.erase(fibre.groups.begin());
    }
}

void run_grid(const std::function<void()>& body, int64_t blocks, int threads, size_t shared_bytes, uint64_t seed) {
    if (threads <= 0 || threads % 32 != 0 || threads > 1024)
        throw std::runtime_error("a block has " + std::to_string(threads) + " threads; it needs a multiple of 32 up to 1024");
    machine.body = &body;
    machine.blocks = static_cast<int>(blocks);
    machine.threads = threads;
    machine.fibres.resize(std::min(machine.fibres.size(), static_cast<size_t>(threads)));
    machine.shared_bytes = shared_bytes;
    machine.memory.resize(shared_bytes + 2 * guard_bytes + 128);
    machine.shared = machine.memory.data() + guard_bytes;
    machine.shared += (128 - reinterpret_cast<uintptr_t>(machine.shared) % 128) % 128;
    std::mt19937_64 random(seed);
    std::vector<int> order(static_cast<size_t>(blocks));
    for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int>(seed == 1 ? order.size() - 1 - i : i);
    if (seed > 1) std::shuffle(order.begin(), order.end(), random);
    for (int block : order) {
        machine.block = block;
        run_block(random, seed);
    }
}

}  // namespace fastspade::emulate
