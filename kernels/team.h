// Workgroups that serve one row together: a team's members take a slice of the row each, add up
// what they found in memory, and meet. Members wait for one another, so all workgroups of a launch
// must be resident at once: there are at most 112 of 1024 threads, one for each compute unit (of
// which gfx950 has 256, an H100 114 or 132). A team of one keeps everything in LDS.
//
// A phase ends where the members meet. What they add to a table in a phase is read in the next one,
// and may be overwritten in the one after that, by when the third of the tables is in use. Bins are
// dear to clear and few phases need them: they take turns of their own. Each histogram is made in
// the next table's, which were cleared where the members met last, or made the last histogram. A
// launch may leave tables that are not clear. Launches that use one team's memory must follow one
// another, but may differ in the number of members.
#pragma once
#include "device.h"

constexpr u32 MAX_MEMBERS = 20;
constexpr u32 BINS = 1024;
constexpr u32 LISTED = 2048;

/// Sums over a row's tokens, or what else a member has to say.
struct Share {
  u64 all, kept, tokens;
};

struct Table {
  u64 weight[BINS];
  u64 list[LISTED];
  Share shares[MAX_MEMBERS]; // of each member; not cleared
  u32 count[BINS];
  u32 listed;
  u32 pad;
};

/// A team's memory, zero before its first launch.
struct TeamMemory {
  u32 arrived; // how often members have come to meet, in all launches
  u32 settled; // the same when the last launch ended
  Table tables[3];
};
static_assert(sizeof(TeamMemory) == 87488, "TEAM_BYTES of crates/hip/src/kernels/sample.rs");

template <class T>
__device__ inline T add_on_device(T *to, T x) {
  return __scoped_atomic_fetch_add(to, x, __ATOMIC_RELAXED, __MEMORY_SCOPE_DEVICE);
}

/// One member's view.
struct Team {
  TeamMemory *memory;
  u32 members, member;
  u32 arrivals;
  u32 turn;      // the phase's table
  u32 histogram; // the table whose bins are next

  __device__ static Team join(TeamMemory *memory, u32 members, u32 member) {
    if (members == 1) return {memory, 1, 0, 0, 0, 0};
    return {memory, members, member, memory->settled, 0, 0};
  }

  /// This phase's table.
  __device__ Table &table() const { return memory->tables[turn]; }

  /// The table in whose bins the next histogram is made.
  __device__ Table &bins() const { return memory->tables[histogram]; }

  /// Ends the phase: what all members wrote in it is seen after this. Clears the next histogram's
  /// first `cleared` bins.
  __device__ void meet(u32 cleared) {
    turn = turn == 2 ? 0 : turn + 1;
    Table &next = bins();
    if (thread() < cleared && thread() % members == member) {
      next.weight[thread()] = next.count[thread()] = 0;
    }
    if (thread() == 0 && member == 0) table().listed = 0;
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
