import de.bwaldvogel.mongo.MongoServer;
import de.bwaldvogel.mongo.ServerVersion;
import de.bwaldvogel.mongo.backend.memory.MemoryBackend;
import java.net.InetSocketAddress;

/**
 * Serves MongoDB's protocol from memory at the loopback port that the only argument names.
 *
 * <p>One thread reads, does and answers all commands of all clients, one after the other. With several, as is usual,
 * a document goes into a reply after the lock on its collection was released: an update meanwhile tears it, and the
 * client sees half of the old and half of the new. MongoDB itself never does that.
 */
public final class Mongo {
    public static void main(String[] args) {
        var backend = new MemoryBackend().version(ServerVersion.MONGO_5_0); // older ones are refused by clients
        var address = new InetSocketAddress("127.0.0.1", Integer.parseInt(args[0]));
        new MongoServer(backend).bind(address, 1, 1); // threads to accept connections, and to serve them
    }
}
