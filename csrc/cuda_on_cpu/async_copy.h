// cp.async of 16 bytes. The destination holds NaN until the copy is waited for. The issuing thread then makes the copy,
// so that thread sanitizer sees the writer.
#pragma once

namespace fi {

// A false predicate writes zeros and reads nothing.
inline void cp_async16(void* to, const void* from, bool predicate) {
  if (reinterpret_cast<uintptr_t>(to) % 16 || (predicate && reinterpret_cast<uintptr_t>(from) % 16))
    emu::fail("a cp.async address is not 16-byte aligned");
  for (int i = 0; i < 4; ++i) static_cast<volatile uint32_t*>(to)[i] = ~0u;
  emu::Own own;
  emu::self().open.push_back({to, predicate ? from : nullptr});
}

inline void cp_async_commit() {
  emu::Own own;
  emu::Fiber& me = emu::self();
  me.groups.push_back(std::move(me.open));
  me.open.clear();
}

// Waits until at most `pending` committed groups are in flight.
template <int pending>
void cp_async_wait() {
  emu::Fiber& me = emu::self();
  while (true) {
    std::vector<emu::Copy> due;
    {
      emu::Own own;
      if (me.groups.size() <= pending) return;
      due = std::move(me.groups.front());
      me.groups.erase(me.groups.begin());
    }
    for (const emu::Copy& copy : due) {
      if (copy.from)
        memcpy(copy.to, copy.from, 16);
      else
        memset(copy.to, 0, 16);
    }
    emu::Own own;
    due = {};
  }
}

}  // namespace fi
