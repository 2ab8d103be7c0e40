// Switching between stacks: a few instructions where we know the calling convention, ucontext elsewhere (and wherever
// FASTSPADE_UCONTEXT is defined, so that it can be tested).
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__x86_64__) && !defined(FASTSPADE_UCONTEXT)
#define FASTSPADE_SWITCH_X86
#else
#include <ucontext.h>
#endif

namespace fastspade::emulate {

#ifdef FASTSPADE_SWITCH_X86

// Saves the callee-saved registers and the stack pointer, and goes on where `to` left off (System V). It jumps there: processors
// predict that a return leads to where its call came from.
extern "C" void fastspade_switch_stack(void** from, void* to);
asm(R"(
.text
.type fastspade_switch_stack,@function
fastspade_switch_stack:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    popq %rcx
    jmp *%rcx
.size fastspade_switch_stack,.-fastspade_switch_stack
)");

struct Context {
    void* stack_pointer = nullptr;

    // Makes the context start at `entry`, which must never return.
    void start(char* stack, size_t bytes, void (*entry)()) {
        auto* top = reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(stack + bytes) & ~uintptr_t{15});
        *--top = nullptr;  // where entry would return to; also keeps the stack aligned as after a call
        *--top = reinterpret_cast<void*>(entry);
        for (int i = 0; i < 6; ++i) *--top = nullptr;
        stack_pointer = top;
    }
    void switch_to(Context& other) { fastspade_switch_stack(&stack_pointer, other.stack_pointer); }
};

#else

struct Context {
    ucontext_t context{};

    void start(char* stack, size_t bytes, void (*entry)()) {
        getcontext(&context);
        context.uc_stack.ss_sp = stack;
        context.uc_stack.ss_size = bytes;
        context.uc_link = nullptr;
        makecontext(&context, entry, 0);
    }
    void switch_to(Context& other) { swapcontext(&context, &other.context); }
};

#endif

}  // namespace fastspade::emulate
