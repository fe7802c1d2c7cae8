/* A client of a line echo: echo_load PORT CONNECTIONS IN_FLIGHT SECONDS
 *
 * Each connection keeps IN_FLIGHT lines of 64 bytes under way: for as many as come back whole, as many new ones leave, in one
 * send. No two neighbouring lines are alike, and each byte that comes back must be the one that was sent. Prints
 * "lines N seconds S"; whatever goes wrong ends it with status 1 and a word.
 */
#define _GNU_SOURCE
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { LINE = 64, LINES = 4096, RING = LINE * LINES };

static char ring[2 * RING]; /* twice the same, so that whatever begins in the first half is in one piece */
static struct { int fd; size_t sent, back; } *peers; /* bytes of the ring; the two only grow */

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static void fill(void) {
    for (int i = 0; i < 2 * LINES; i++) {
        char line[LINE + 1];
        snprintf(line, sizeof line, "%06d %-49s%06d\r\n", i % LINES, "the quick brown fox jumps over the lazy dog", i * 7 % LINES);
        memcpy(ring + i * LINE, line, LINE);
    }
}

static void say(int i, size_t size) {
    if (send(peers[i].fd, ring + peers[i].sent % RING, size, MSG_NOSIGNAL) != (ssize_t)size) fail("send");
    peers[i].sent += size;
}

/* How many lines came back whole. */
static size_t hear(int i) {
    char heard[65536];
    ssize_t got = recv(peers[i].fd, heard, sizeof heard, 0);
    if (got <= 0) fail("recv");
    if (peers[i].back + got > peers[i].sent || memcmp(heard, ring + peers[i].back % RING, got)) {
        fprintf(stderr, "what came back is not what was sent\n");
        exit(1);
    }
    size_t before = peers[i].back / LINE;
    return (peers[i].back += got) / LINE - before;
}

int main(int argc, char **argv) {
    if (argc != 5) { fprintf(stderr, "usage: echo_load PORT CONNECTIONS IN_FLIGHT SECONDS\n"); return 2; }
    int connections = atoi(argv[2]), in_flight = atoi(argv[3]), on = 1, epoll = epoll_create1(0);
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(atoi(argv[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    fill();
    peers = calloc(connections, sizeof *peers);
    for (int i = 0; i < connections; i++) {
        peers[i].fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(peers[i].fd, (struct sockaddr *)&address, sizeof address)) fail("connect");
        setsockopt(peers[i].fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        peers[i].sent = peers[i].back = (size_t)i % LINES * LINE;
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = i};
        epoll_ctl(epoll, EPOLL_CTL_ADD, peers[i].fd, &event);
    }
    double begin = now(), end = begin + atof(argv[4]), time = begin;
    size_t lines = 0;
    for (int i = 0; i < connections; i++) say(i, (size_t)in_flight * LINE);
    while (time < end) {
        struct epoll_event events[256];
        int count = epoll_wait(epoll, events, 256, 1000);
        if (count == 0) { fprintf(stderr, "nothing came back for a second\n"); return 1; }
        for (int k = 0; k < count; k++) {
            size_t back = hear(events[k].data.u32);
            lines += back;
            if (back) say(events[k].data.u32, back * LINE);
        }
        time = now();
    }
    printf("lines %zu seconds %.6f\n", lines, time - begin);
}
