// cp.async: copies that a thread has begun, and that only its wait_group completes.
#ifndef EDGECONV_COMMON_SIMT_ASYNC_COPIES_H_
#define EDGECONV_COMMON_SIMT_ASYNC_COPIES_H_

#include <cstdint>
#include <deque>

namespace simt {

class AsyncCopies {
 public:
  void start() {
    copies_.clear();
    group_ = 0;
  }

  // Until the copy is complete the destination is poisoned. The source is read at once, so that a sanitizer blames the
  // right line; a kernel may not change it meanwhile anyhow.
  void begin(void* shared, const void* global, int bytes, int valid_bytes);
  void commit() { ++group_; }
  // Completes all groups but the latest `pending`.
  void wait(int64_t pending);

 private:
  struct Copy {
    char* to;
    int bytes;
    int64_t group;
    unsigned char data[16];
  };
  std::deque<Copy> copies_;
  int64_t group_ = 0;  // that copies join
};

}  // namespace simt

#endif  // EDGECONV_COMMON_SIMT_ASYNC_COPIES_H_
