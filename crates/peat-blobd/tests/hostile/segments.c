/* A kernel or device that cannot segment UDP, as some containers have: what is sent in several segments at once fails with EIO, and
   that it was tried is noted in a file. While another file is there it can. Loaded into the daemon before the C library. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { UDP_LEVEL = 17, UDP_SEGMENTS = 103 };

ssize_t sendmsg(int socket, const struct msghdr *message, int flags) {
    const char *refused = getenv("SEGMENTS_REFUSED"), *taken = getenv("SEGMENTS_TAKEN");
    struct cmsghdr *item = CMSG_FIRSTHDR(message);
    for (; item; item = CMSG_NXTHDR((struct msghdr *)message, item)) {
        if (item->cmsg_level == UDP_LEVEL && item->cmsg_type == UDP_SEGMENTS && access(taken, F_OK) != 0) {
            int note = open(refused, O_WRONLY | O_CREAT, 0600);
            if (note >= 0) close(note);
            errno = EIO;
            return -1;
        }
    }
    ssize_t (*next)(int, const struct msghdr *, int) = (ssize_t (*)(int, const struct msghdr *, int))dlsym(RTLD_NEXT, "sendmsg");
    return next(socket, message, flags);
}
