/* Stands in for a static `tidelock` where the image alone is tested: says who runs it and with what, and fails
   when the root file system holds what it should not. */
#include <stdio.h>
#include <unistd.h>

int main(int argc, char **argv) {
  printf("stand-in uid=%d gid=%d data=%s shell=%s args=", getuid(), getgid(),
         access("/var/lib/tidelock", W_OK) == 0 ? "writable" : "refused",
         access("/bin/sh", F_OK) == 0 ? "present" : "absent");
  for (int i = 1; i < argc; i++) printf("%s%s", i > 1 ? "," : "", argv[i]);
  puts("");
  return 0;
}
