// Workgroups that serve one row together: a team's members take a slice of the row each, add up
// what they found in memory, and meet. Members wait for one another, so all workgroups of a launch
// must be resident at once: there are at most 128 of 1024 threads, and one for each compute unit. A
// team of one keeps everything in LDS.
//
// A phase ends where the members meet. What they add to a table in a phase is read in the next one,
// and may be overwritten in the one after that, by when the third of the tables is in use: it was
// cleared where they met. A launch may leave tables that are not clear, so nothing is added in its
// first phase. Launches that use one team's memory must follow one another, but may differ in the
// number of members.
#pragma once
#include "device.h"

constexpr u32 MAX_MEMBERS = 20;
constexpr u32 BINS = 64;
constexpr u32 LISTED = 2048;

/// Sums over a row's tokens, or what else a member has to say.
struct Share {
  u64 all, kept, tokens;
};

struct Table {
  u64 sums[BINS];
  u64 list[LISTED];
  Share shares[MAX_MEMBERS]; // of each member; not cleared
  u32 listed;
  u32 pad;
};

/// A team's memory, zero before its first launch.
struct TeamMemory {
  u32 arrived; // how often members have come to meet, in all launches
  u32 settled; // the same when the last launch ended
  Table tables[3];
};
static_assert(sizeof(TeamMemory) == 52160, "TEAM_BYTES of crates/hip/src/kernels/sample.rs");

template <class T>
__device__ inline T add_on_device(T *to, T x) {
  return __scoped_atomic_fetch_add(to, x, __ATOMIC_RELAXED, __MEMORY_SCOPE_DEVICE);
}

/// One member's view.
struct Team {
  TeamMemory *memory;
  u32 members, member;
  u32 arrivals;
  u32 turn; // the phase's table

  __device__ static Team join(TeamMemory *memory, u32 members, u32 member) {
    if (members == 1) return {memory, 1, 0, 0, 0};
    return {memory, members, member, memory->settled, 0};
  }

  /// This phase's table.
  __device__ Table &table() const { return memory->tables[turn]; }

  /// Ends the phase: what all members wrote in it is seen after this.
  __device__ void meet() {
    turn = turn == 2 ? 0 : turn + 1;
    if (member == 0 && thread() < BINS) table().sums[thread()] = 0;
    if (member == 0 && thread() == 0) table().listed = 0;
    sync_memory();
    arrivals += members;
    if (thread() == 0) {
      release_on_device();
      add_on_device(&memory->arrived, 1u);
      auto arrived = [&] {
        return __scoped_atomic_load_n(&memory->arrived, __ATOMIC_RELAXED, __MEMORY_SCOPE_DEVICE);
      };
      while ((int)(arrived() - arrivals) < 0) pause();
      acquire_on_device();
    }
    sync();
  }

  /// For the first member's first thread, at the end. (Others read this before they meet.)
  __device__ void leave() const {
    if (members > 1 && arrivals != memory->settled) memory->settled = arrivals;
  }
};
