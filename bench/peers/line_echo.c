/* A line echo with epoll, one process, as little as can be done: line_echo PORT
 *
 * The limit that an echo in any language is measured against. Whole lines go back at once; nothing else is done.
 */
#define _GNU_SOURCE
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MOST = 65536, ROOM = 8192 };

static struct { char bytes[ROOM]; size_t held; } *lines[MOST]; /* by descriptor: a line that is not complete yet */

static void let_go(int fd) {
    free(lines[fd]);
    lines[fd] = NULL;
    close(fd);
}

static void take(int server, int epoll) {
    int on = 1, fd = accept4(server, NULL, NULL, SOCK_NONBLOCK);
    if (fd < 0) return;
    if (fd >= MOST || !(lines[fd] = calloc(1, sizeof *lines[fd]))) { close(fd); return; }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

static void answer(int fd) {
    char *bytes = lines[fd]->bytes;
    ssize_t got = recv(fd, bytes + lines[fd]->held, ROOM - lines[fd]->held, 0);
    if (got <= 0) { let_go(fd); return; }
    size_t held = lines[fd]->held + got;
    char *end = memrchr(bytes, '\n', held);
    size_t whole = end ? end + 1 - bytes : 0;
    /* A client that does not take its own lines back is dropped: no output is ever kept. */
    if (whole && send(fd, bytes, whole, MSG_NOSIGNAL) != (ssize_t)whole) { let_go(fd); return; }
    memmove(bytes, bytes + whole, held - whole);
    if ((lines[fd]->held = held - whole) == ROOM) let_go(fd);
}

int main(int argc, char **argv) {
    int on = 1, server = socket(AF_INET, SOCK_STREAM, 0), epoll = epoll_create1(0);
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(atoi(argc > 1 ? argv[1] : "0")), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(server, (struct sockaddr *)&address, sizeof address) || listen(server, 1024)) { perror("line_echo"); return 2; }
    struct epoll_event event = {.events = EPOLLIN, .data.fd = server}, events[256];
    epoll_ctl(epoll, EPOLL_CTL_ADD, server, &event);
    for (;;) {
        int count = epoll_wait(epoll, events, 256, -1);
        for (int i = 0; i < count; i++) {
            if (events[i].data.fd == server) take(server, epoll);
            else answer(events[i].data.fd);
        }
    }
}
