import de.bwaldvogel.mongo.MongoServer;
import de.bwaldvogel.mongo.ServerVersion;
import de.bwaldvogel.mongo.backend.memory.MemoryBackend;

/** Serves MongoDB's protocol from memory at the loopback port that the only argument names. */
public final class Mongo {
    public static void main(String[] args) {
        var backend = new MemoryBackend().version(ServerVersion.MONGO_5_0); // older ones are refused by clients
        new MongoServer(backend).bind("127.0.0.1", Integer.parseInt(args[0]));
    }
}
