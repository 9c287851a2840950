/* The wall clock of a process, moved by as many seconds as the file LITEFS_TEST_AHEAD holds (an int64). Loaded by LD_PRELOAD.
 * Only what tells the time of day is moved: deadlines are by the monotonic clock, which stays as it is. */

#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *ahead;

__attribute__((constructor)) static void open_ahead(void) {
  const char *path = getenv("LITEFS_TEST_AHEAD");
  int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  if (fd < 0) return;
  void *map = mmap(NULL, sizeof *ahead, PROT_READ, MAP_SHARED, fd, 0);
  if (map != MAP_FAILED) ahead = map;
  close(fd);
}

int clock_gettime(clockid_t id, struct timespec *now) {
  int failed = syscall(SYS_clock_gettime, id, now);
  int is_wall = id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE;
  if (!failed && is_wall && ahead) now->tv_sec += *ahead;
  return failed;
}

int gettimeofday(struct timeval *now, void *zone) {
  struct timespec precise;
  (void)zone;
  if (clock_gettime(CLOCK_REALTIME, &precise)) return -1;
  now->tv_sec = precise.tv_sec;
  now->tv_usec = precise.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *into) {
  struct timespec now;
  if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
  if (into) *into = now.tv_sec;
  return now.tv_sec;
}
