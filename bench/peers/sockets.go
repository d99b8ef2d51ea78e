// Go's net: a goroutine per connection. `sockets-go echo|line|sink|chat|datagram`.
package main

import (
	"bufio"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"sync"
)

func main() {
	mode := os.Args[1]
	if mode == "datagram" {
		datagrams()
		return
	}
	serve := map[string]func(net.Conn){"echo": echo, "line": line, "sink": sink, "chat": chat}[mode]
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("listening on", listener.Addr())
	for {
		connection, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			defer connection.Close()
			serve(connection)
		}()
	}
}

func echo(connection net.Conn) {
	buffer := make([]byte, 4096)
	for {
		count, err := connection.Read(buffer)
		if err != nil {
			return
		}
		if _, err := connection.Write(buffer[:count]); err != nil {
			return
		}
	}
}

func line(connection net.Conn) {
	text, err := bufio.NewReader(connection).ReadSlice('\n')
	if err == nil {
		connection.Write(text)
	}
}

func sink(connection net.Conn) {
	buffer := make([]byte, 65536)
	total := 0
	for {
		count, err := connection.Read(buffer)
		total += count
		if err == io.EOF {
			fmt.Fprintf(connection, "%d\n", total)
		}
		if err != nil {
			return
		}
	}
}

var (
	lock    sync.Mutex
	members = map[net.Conn]bool{}
)

func chat(connection net.Conn) {
	lock.Lock()
	members[connection] = true
	lock.Unlock()
	defer func() {
		lock.Lock()
		delete(members, connection)
		lock.Unlock()
	}()
	reader := bufio.NewReader(connection)
	for {
		text, err := reader.ReadSlice('\n')
		if err != nil {
			return
		}
		lock.Lock()
		for member := range members {
			if member != connection {
				member.Write(text)
			}
		}
		lock.Unlock()
	}
}

func datagrams() {
	address := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}
	socket, err := net.ListenUDP("udp4", address)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("listening on", socket.LocalAddr())
	buffer := make([]byte, 2048)
	for {
		count, from, err := socket.ReadFromUDPAddrPort(buffer)
		if err != nil {
			log.Fatal(err)
		}
		socket.WriteToUDPAddrPort(buffer[:count], from)
	}
}
