// Walks a block's share of a search: pieces of gallery images (units), Gram tiles within (jobs), some channels at a time
// (steps). Loading and multiplying threads each walk their own, and so agree without communication.
#pragma once

#include "cuda/device.cuh"
#include "cuda/parameters.hpp"
#include "cuda/slots.cuh"

namespace fastspade::cuda {

struct Cursor {
    int unit, job, last_job, step, steps, group, first, image;
    bool done;

    FASTSPADE_DEVICE bool finest() const { return group % max_groups == 0; }
};

// A coarse pixel's place in its ring, where it lies less than a ring's length beyond the ring's end. Rings hold tiles and rows
// whole.
FASTSPADE_DEVICE int in_ring(int place, const SearchGroup& group) { return place < group.ring ? place : place - group.ring; }

// Whether the finest group's projections are multiplied in its place.
FASTSPADE_DEVICE bool projecting(const SearchParameters& p) { return p.told && tells(p.told); }

FASTSPADE_DEVICE void open_job(const SearchParameters& p, Cursor& c) {
    const uint32_t job = p.jobs ? p.jobs[c.job] : static_cast<uint32_t>(c.job);
    c.group = static_cast<int>(job >> 28);
    c.first = static_cast<int>(job & 0x0fffffffu) * p.groups[c.group].stride;
    c.step = 0;
    c.steps = p.groups[c.group].steps;
}

// Moves to the block's next unit that has an image and jobs, starting at c.unit.
FASTSPADE_DEVICE void open_unit(const SearchParameters& p, Cursor& c, int query_image) {
    for (; c.unit < p.slots * p.segments; c.unit += p.splits) {
        const int slot = c.unit / p.segments, segment = c.unit - slot * p.segments;
        const int64_t image = image_of_slot(p, query_image, slot);
        c.image = static_cast<int>(image);
        c.job = static_cast<int>(static_cast<int64_t>(p.job_count) * segment / p.segments);
        c.last_job = static_cast<int>(static_cast<int64_t>(p.job_count) * (segment + 1) / p.segments);
        if (image >= 0 && c.job < c.last_job) {
            open_job(p, c);
            return;
        }
    }
    c.done = true;
}

FASTSPADE_DEVICE void advance_job(const SearchParameters& p, Cursor& c, int query_image) {
    if (++c.job < c.last_job) {
        open_job(p, c);
        return;
    }
    c.unit += p.splits;
    open_unit(p, c, query_image);
}

FASTSPADE_DEVICE void advance(const SearchParameters& p, Cursor& c, int query_image) {
    if (++c.step == c.steps) advance_job(p, c, query_image);
}

}  // namespace fastspade::cuda
