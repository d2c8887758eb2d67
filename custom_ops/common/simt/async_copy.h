// cp.async: from global to shared memory, 4, 8 or 16 bytes, the rest after `valid_bytes` zeros.
#ifndef EDGECONV_COMMON_SIMT_ASYNC_COPY_H_
#define EDGECONV_COMMON_SIMT_ASYNC_COPY_H_

namespace simt {

void cp_async(void* shared, const void* global, int bytes, int valid_bytes);
void cp_async_commit_group();
void cp_async_wait_group(int pending);

}  // namespace simt

#endif  // EDGECONV_COMMON_SIMT_ASYNC_COPY_H_
