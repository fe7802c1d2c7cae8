/* An open-loop client: paced_load PORT get|each|line|tls CONNECTIONS RATE SECONDS [PATH]
 *
 * Arrivals are RATE a second, evenly, and take the CONNECTIONS in turn; one whose connection still waits for an answer waits too.
 * Its latency begins when it was due, so a stall of the server is seen by all that fall due meanwhile (wrk2 counts likewise).
 * get: a kept connection; each: a new one for each; line: 64 bytes, to an echo; tls: as get, with -DTLS -lssl. An answer is good
 * if it is as long as the first one, and begins like it. Prints "due N answered N p50 S p99 S p999 S max S late S": what never
 * came counts as endless, and `late` is the 99th percentile of what the client itself took, of arrivals that had no need to wait.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#ifdef TLS
#include <openssl/ssl.h>
static SSL_CTX *context;
#else
typedef void SSL;
#endif

enum { START = 12, ROOM = 65536, GRACE = 2 }; /* bytes that are compared; seconds for the last answers */
enum { FREE, CONNECTING, ASKED };

static struct peer { int fd, state; size_t got; long turn; double since; SSL *tls; } *peers; /* turn: of its own arrivals */
static struct sockaddr_in address = {.sin_family = AF_INET};
static char request[512], first[ROOM], heard[ROOM];
static size_t size, asked; /* bytes of an answer, and of a request */
static int each, tls, epoll, connections;
static double rate, begin, *waits, *lates;
static long answered, prompt;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void wrong(const char *what) {
    fprintf(stderr, "%s is not what was expected\n", what);
    exit(1);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static double due(int i) { return begin + (peers[i].turn * connections + i) / rate; }

static ssize_t take(struct peer *peer, char *bytes, size_t room) {
#ifdef TLS
    if (tls) {
        int got = SSL_read(peer->tls, bytes, room);
        if (got <= 0 && SSL_get_error(peer->tls, got) == SSL_ERROR_WANT_READ) { errno = EAGAIN; return -1; }
        return got;
    }
#endif
    return recv(peer->fd, bytes, room, 0);
}

static void ask(struct peer *peer) {
#ifdef TLS
    ssize_t sent = tls ? SSL_write(peer->tls, request, asked) : send(peer->fd, request, asked, MSG_NOSIGNAL);
#else
    ssize_t sent = send(peer->fd, request, asked, MSG_NOSIGNAL);
#endif
    if (sent != (ssize_t)asked) fail("send");
    peer->state = ASKED;
    peer->got = 0;
}

static void open_connection(int i, int flags) {
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | flags, 0);
    if (fd < 0 || (connect(fd, (struct sockaddr *)&address, sizeof address) && errno != EINPROGRESS)) fail("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct epoll_event event = {.events = flags ? EPOLLOUT : EPOLLIN, .data.u32 = i};
    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
    peers[i].fd = fd;
    peers[i].state = CONNECTING;
#ifdef TLS
    if (!tls) return;
    peers[i].tls = SSL_new(context);
    SSL_set_fd(peers[i].tls, fd);
    if (SSL_connect(peers[i].tls) != 1) fail("TLS handshake");
#endif
}

/* Learn from a first answer how all are to be. */
static void sample(int line) {
    size_t got = 0;
    char *end = NULL, *length;
    open_connection(0, 0);
    ask(&peers[0]);
    size = line ? asked : ROOM;
    while (got < size) {
        ssize_t more = take(&peers[0], first + got, sizeof first - 1 - got);
        if (more <= 0) fail("the first answer");
        got += more;
        if (line || end || !(end = strstr(first, "\r\n\r\n"))) continue;
        if (!strstr(first, " 200 ") || !(length = strcasestr(first, "content-length:"))) wrong("the first answer");
        size = end + 4 - first + atol(length + 15);
    }
    close(peers[0].fd);
}

static void start(int i, double time) {
    double ready = due(i) > peers[i].since ? due(i) : peers[i].since;
    if (ready == due(i)) lates[prompt++] = time - ready;
    if (each) open_connection(i, SOCK_NONBLOCK);
    else ask(&peers[i]);
}

static void hear(int i) {
    struct peer *peer = &peers[i];
    for (;;) {
        ssize_t got = take(peer, heard, sizeof heard);
        if (got < 0 && errno == EAGAIN) return;
        if (got == 0 && !each) wrong("the end of a connection");
        if (got < 0) fail("recv");
        size_t before = peer->got;
        peer->got += got;
        if (before < START && memcmp(heard, first + before, (peer->got < START ? peer->got : START) - before)) wrong("an answer");
        if (each ? got == 0 : peer->got >= size) break;
    }
    if (peer->got != size) wrong("the length of an answer");
    peer->since = now();
    waits[answered++] = peer->since - due(i);
    if (each) close(peer->fd);
    peer->state = FREE;
    peer->turn++;
}

static int ascending(const void *one, const void *other) {
    double difference = *(double *)one - *(double *)other;
    return (difference > 0) - (difference < 0);
}

int main(int argc, char **argv) {
    if (argc < 6) { fprintf(stderr, "usage: paced_load PORT KIND CONNECTIONS RATE SECONDS [PATH]\n"); return 2; }
    int line = !strcmp(argv[2], "line");
    double seconds = atof(argv[5]);
    each = !strcmp(argv[2], "each"), tls = !strcmp(argv[2], "tls"), connections = atoi(argv[3]), rate = atof(argv[4]);
    long all = (long)(rate * seconds), next = 0;
    address.sin_port = htons(atoi(argv[1])), address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (line) snprintf(request, sizeof request, "%-62s\r\n", "the quick brown fox jumps over the lazy dog");
    else snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%s\r\n%s\r\n", argv[argc - 1], argv[1],
                  each ? "Connection: close\r\n" : "");
    asked = strlen(request), epoll = epoll_create1(0), peers = calloc(connections, sizeof *peers);
    waits = malloc((all + 1) * sizeof *waits), lates = malloc((all + 1) * sizeof *lates);
    prctl(PR_SET_TIMERSLACK, 1);
#ifdef TLS
    context = SSL_CTX_new(TLS_client_method());
#else
    if (tls) { fprintf(stderr, "compiled without TLS\n"); return 2; }
#endif
    sample(line);
    for (int i = 0; i < connections && !each; i++) open_connection(i, 0);
    for (int i = 0; i < connections; i++) {
        peers[i].state = FREE;
        if (!each) fcntl(peers[i].fd, F_SETFL, O_NONBLOCK);
    }
    begin = now() + 0.01;
    double time = begin;
    /* `next` is the first arrival whose moment has not come; those before it start at once, or when their connection is free. */
    while (answered < all && time < begin + seconds + GRACE) {
        for (time = now(); next < all && begin + next / rate <= time; next++)
            if (peers[next % connections].state == FREE && peers[next % connections].turn == next / connections)
                start(next % connections, time);
        double pause = next < all ? begin + next / rate - time : 0.1;
        struct timespec timeout = {.tv_nsec = pause > 0.1 ? 100000000 : (long)(pause * 1e9)};
        struct epoll_event events[256];
        int count = epoll_pwait2(epoll, events, 256, &timeout, NULL);
        for (int k = 0; k < count; k++) {
            int i = events[k].data.u32;
            if (peers[i].state == CONNECTING) {
                struct epoll_event event = {.events = EPOLLIN, .data.u32 = i};
                epoll_ctl(epoll, EPOLL_CTL_MOD, peers[i].fd, &event);
                ask(&peers[i]);
            } else hear(i);
            if (peers[i].state == FREE && peers[i].turn * connections + i < next) start(i, now());
        }
        time = now();
    }
    long found = answered;
    while (answered < all) waits[answered++] = 1.0 / 0.0;
    if (!prompt) lates[prompt++] = 0;
    qsort(waits, all, sizeof *waits, ascending);
    qsort(lates, prompt, sizeof *lates, ascending);
    printf("due %ld answered %ld p50 %.6f p99 %.6f p999 %.6f max %.6f late %.6f\n", all, found, waits[all / 2],
           waits[all * 99 / 100], waits[all * 999 / 1000], waits[all - 1], lates[prompt * 99 / 100]);
}
